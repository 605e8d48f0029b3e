"""The transformer of SAM's mask decoder: prompt tokens and image tokens attend to each other.

Segment Anything (Kirillov et al., 2023), appendix A, "Lightweight mask decoder", figure 14;
segment-anything's `TwoWayTransformer`. Positions are added to queries and keys, never to values.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from samclip.export.models.block import Mlp


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks, then a last attention from the prompt tokens to the image.

    State-dict keys are those of segment-anything's `TwoWayTransformer`.
    """

    def __init__(
        self, depth: int = 2, dim: int = 256, num_heads: int = 8, mlp_dim: int = 2048
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads, mlp_dim, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = CrossAttention(dim, num_heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attend between `image`, BxCxGxG, and `tokens`, BxNxC.

        `image_pe`, 1xCxGxG, is the position encoding of the grid. Returns the tokens, BxNxC, and
        the image tokens, BxLxC with L = G * G.
        """
        keys = image.flatten(2).transpose(1, 2)  # BxLxC
        key_pe = image_pe.flatten(2).transpose(1, 2)  # 1xLxC
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        found = self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries + found), keys


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, to the image, pass an MLP; then the image attends to them.

    The `first` block's self-attention neither adds positions nor keeps a residual.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = CrossAttention(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = CrossAttention(dim, num_heads, downsample=2)

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update `queries`, BxNxC, and `keys`, BxLxC; positions as BxNxC and 1xLxC."""
        if self.first:
            queries = self.self_attn(queries, queries, queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(placed, placed, queries)
        queries = self.norm1(queries)
        placed_keys = keys + key_pe
        found = self.cross_attn_token_to_image(queries + query_pe, placed_keys, keys)
        queries = self.norm2(queries + found)
        queries = self.norm3(queries + self.mlp(queries))
        told = self.cross_attn_image_to_token(placed_keys, queries + query_pe, queries)
        return queries, self.norm4(keys + told)


class CrossAttention(nn.Module):
    """Multi-head attention whose inner width is `dim / downsample`."""

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.head_dim = inner // num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from `queries`, BxNxC, to `keys` and `values`, BxMxC: BxNxC."""
        q = self._heads(self.q_proj(queries))
        k = self._heads(self.k_proj(keys))
        v = self._heads(self.v_proj(values))
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)  # BxHxNxM
        heads = (scores.softmax(dim=-1) @ v).transpose(1, 2)  # BxNxHxD
        out: Tensor = self.out_proj(heads.flatten(2))  # BxNxC
        return out

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.reshape(batch, length, self.num_heads, self.head_dim).transpose(1, 2)  # BxHxNxD
