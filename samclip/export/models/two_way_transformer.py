"""The transformer of SAM's mask decoder: prompt tokens and image tokens attend to each other.

Segment Anything (Kirillov et al., 2023), appendix A, "Lightweight mask decoder", figure 14;
segment-anything's `TwoWayTransformer`. Positions are added to queries and keys, never to values.

A prompt has about 7 tokens and an image 4,096. So the matrices that an attention would multiply
with every image token are multiplied with the prompt tokens first, which is exact:
q (X W)^T = (q W^T) X^T, and A (X W) = (A X) W. An image token is then multiplied with 8 heads x 7
tokens instead of a 256 x 128 matrix, four times a block, and nothing of the image is ever
transposed. This costs less up to about 16 tokens a prompt.
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
        """Attend between image tokens, BxLxC, and prompt tokens, BxNxC; returns both, updated.

        `image_pe`, 1xLxC, are the positions of the image tokens.
        """
        queries = tokens
        for layer in self.layers:
            queries, image = layer(queries, image, tokens, image_pe)
        found = self.final_attn_token_to_image.attend_to_many(
            queries + tokens, image + image_pe, image
        )
        return self.norm_final_attn(queries + found), image


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
        """Update prompt tokens, BxNxC, and image tokens, BxLxC; positions as BxNxC and 1xLxC."""
        if self.first:
            queries = self.self_attn(queries, queries, queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(placed, placed, queries)
        queries = self.norm1(queries)
        placed_keys = keys + key_pe
        found = self.cross_attn_token_to_image.attend_to_many(queries + query_pe, placed_keys, keys)
        queries = self.norm2(queries + found)
        queries = self.norm3(queries + self.mlp(queries))
        found = self.cross_attn_image_to_token.attend_to_few(
            placed_keys, queries + query_pe, queries
        )
        return queries, self.norm4(keys + found)


class CrossAttention(nn.Module):
    """Multi-head attention whose inner width is `dim / downsample`, in three exact forms.

    segment-anything's `Attention`: H heads of D, H * D the inner width. `forward` is the common
    form; `attend_to_many` and `attend_to_few` are for few tokens on one side and many on the other.
    The output is `out_dim` wide, by default as wide as the input.
    """

    def __init__(
        self, dim: int, num_heads: int, downsample: int = 1, out_dim: int | None = None
    ) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.head_dim = inner // num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim if out_dim is None else out_dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from `queries`, BxNxC, to `keys` and `values`, BxMxC: BxNxC."""
        scores = self._scaled(self.q_proj(queries)) @ self._heads(self.k_proj(keys)).mT  # BxHxNxM
        found = scores.softmax(dim=-1) @ self._heads(self.v_proj(values))  # BxHxNxD
        out: Tensor = self.out_proj(_join_heads(found))
        return out

    def attend_to_many(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from few `queries`, BxNxC, to many `keys` and `values`, BxLxC: BxNxC.

        The bias of keys adds the same to all scores of a query, so it cancels in the softmax.
        """
        asked = self._scaled(self.q_proj(queries)) @ self._by_head(self.k_proj)  # BxHxNxC
        scores = asked.flatten(1, 2) @ keys.mT  # Bx(HN)xL
        found = (scores.softmax(dim=-1) @ values).reshape(asked.shape)  # BxHxNxC
        found = found @ self._by_head(self.v_proj).mT  # BxHxNxD
        out: Tensor = self.out_proj(_join_heads(found) + self.v_proj.bias)
        return out

    def attend_to_few(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from many `queries`, BxLxC, to few `keys` and `values`, BxNxC: BxLxC."""
        k = self._scaled(self.k_proj(keys))  # BxHxNxD
        asked = (k @ self._by_head(self.q_proj)).flatten(1, 2)  # Bx(HN)xC
        bias = k @ self.q_proj.bias.reshape(self.num_heads, self.head_dim, 1)  # BxHxNx1
        scores = queries @ asked.mT + bias.flatten(1).unsqueeze(1)  # BxLx(HN)
        by_head = scores.reshape(*scores.shape[:2], self.num_heads, -1)  # BxLxHxN
        out = self.out_proj.weight.T.reshape(self.num_heads, self.head_dim, -1)  # HxDxC
        projected = (self._heads(self.v_proj(values)) @ out).flatten(1, 2)  # Bx(HN)xC
        summed: Tensor = by_head.softmax(dim=-1).flatten(2) @ projected + self.out_proj.bias
        return summed

    def _heads(self, x: Tensor) -> Tensor:
        split = x.reshape(*x.shape[:2], self.num_heads, self.head_dim)  # BxNxHxD
        return split.transpose(1, 2)

    def _scaled(self, x: Tensor) -> Tensor:
        return self._heads(x) / math.sqrt(self.head_dim)

    def _by_head(self, linear: nn.Linear) -> Tensor:
        return linear.weight.reshape(self.num_heads, self.head_dim, -1)  # HxDxC


def _join_heads(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # BxHxNxD -> BxNx(HD)
