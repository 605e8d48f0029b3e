"""The transformer of SAM's mask decoder: prompt tokens and image tokens attend to each other.

Segment Anything (Kirillov et al., 2023), appendix A, "Lightweight mask decoder", figure 14;
segment-anything's `TwoWayTransformer`. Positions are added to queries and keys, never to values.

A prompt has about 7 tokens and an image 4,096. So the matrices that an attention would multiply
with every image token are multiplied with the prompt tokens first, which is exact:
q (X W)^T = (q W^T) X^T, and A (X W) = (A X) W. An image token is then multiplied with 8 heads x 7
tokens instead of a 256 x 128 matrix, four times a block, and nothing of the image is ever
transposed. This costs less up to about 16 tokens a prompt.

The first block sees the same image whatever the prompt is, unless a mask came with it. So for
prompts without masks what it makes of the image is computed once for all of them, `ImageSide`:
there an image token meets 7 tokens of 16 numbers a head, a sixteenth of the products above.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from samclip.export.models.block import Mlp


class ImageSide(NamedTuple):
    """What the first block makes of an image that all prompts share, 1xHxDxL each.

    `keys` and `values` of the attention from prompt tokens to the image, `queries` of that from the
    image to prompt tokens; H heads of D numbers for L image tokens.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor


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

    @property
    def _blocks(self) -> list[TwoWayBlock]:
        return [layer for layer in self.layers if isinstance(layer, TwoWayBlock)]

    def image_side(self, image: Tensor, image_pe: Tensor) -> ImageSide:
        """Return the first block's part that depends on the image tokens, 1xLxC, alone."""
        first = self._blocks[0]
        placed = image + image_pe
        return ImageSide(
            first.cross_attn_token_to_image.keys_of(placed),
            first.cross_attn_token_to_image.values_of(image),
            first.cross_attn_image_to_token.queries_of(placed),
        )

    def forward_shared(
        self, image: Tensor, side: ImageSide, image_pe: Tensor, tokens: Tensor, read: int
    ) -> tuple[Tensor, Tensor]:
        """Compute `forward` for prompts that share the image tokens, 1xLxC, and their `side`.

        Returns the first `read` prompt tokens, updated, and the image tokens, BxLxC.
        """
        queries = tokens
        for layer in self._blocks:
            queries, image = layer.forward_shared(queries, image, tokens, image_pe, side)
        queries = queries[:, :read]
        found = self.final_attn_token_to_image.attend_to_many(
            queries + tokens[:, :read], image + image_pe, image, divide_last=True
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
        queries = self._attend_to_tokens(queries, query_pe)
        placed_keys = keys + key_pe
        found = self.cross_attn_token_to_image.attend_to_many(queries + query_pe, placed_keys, keys)
        queries = self._take(queries, found)
        found = self.cross_attn_image_to_token.attend_to_few(
            placed_keys, queries + query_pe, queries
        )
        return queries, self.norm4(keys + found)

    def forward_shared(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor, side: ImageSide
    ) -> tuple[Tensor, Tensor]:
        """Compute `forward` for prompts whose image is the same before the `first` block.

        There `keys` are 1xLxC, and `side` is what they give; in later blocks it is not read.
        """
        queries = self._attend_to_tokens(queries, query_pe)
        asking, answering = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        if self.first:
            found = asking.attend_to_shared(queries + query_pe, side.keys, side.values)
            queries = self._take(queries, found)
            scores = answering.scores_of_shared(side.queries, queries + query_pe)
        else:
            placed = keys + key_pe
            found = asking.attend_to_many(queries + query_pe, placed, keys, divide_last=True)
            queries = self._take(queries, found)
            scores = answering.scores_of_many(placed, queries + query_pe)
        return queries, self.norm4(keys + answering.spread(scores, queries))

    def _attend_to_tokens(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        if self.first:
            attended: Tensor = self.norm1(self.self_attn(queries, queries, queries))
        else:
            placed = queries + query_pe
            attended = self.norm1(queries + self.self_attn(placed, placed, queries))
        return attended

    def _take(self, queries: Tensor, found: Tensor) -> Tensor:
        """Add what prompt tokens found in the image, and pass them through the MLP."""
        queries = self.norm2(queries + found)
        taken: Tensor = self.norm3(queries + self.mlp(queries))
        return taken


class CrossAttention(nn.Module):
    """Multi-head attention whose inner width is `dim / downsample`, in several exact forms.

    segment-anything's `Attention`: H heads of D, H * D the inner width. `forward` is the common
    form; `attend_to_many` and `attend_to_few` are for few tokens on one side and many on the other.
    Where all prompts share the many, `keys_of`, `values_of` and `queries_of` are computed once, and
    `attend_to_shared` and `scores_of_shared` read them. Scores of the many come with the many last,
    so that the softmax over few tokens runs along rows: `spread` makes results of them.
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

    def attend_to_many(
        self, queries: Tensor, keys: Tensor, values: Tensor, divide_last: bool = False
    ) -> Tensor:
        """Attend from few `queries`, BxNxC, to many `keys` and `values`, BxLxC: BxNxC.

        The bias of keys adds the same to all scores of a query, so it cancels in the softmax.
        `divide_last`: the softmax is written out, and its division comes after the product, where
        there are fewer numbers. OpenVINO also fuses both products around a softmax that it sees,
        into a kernel that is slower than the products.
        """
        asked = self._scaled(self.q_proj(queries)) @ self._by_head(self.k_proj)  # BxHxNxC
        scores = asked.flatten(1, 2) @ keys.mT  # Bx(HN)xL
        if divide_last:
            shares = (scores - scores.amax(dim=-1, keepdim=True)).exp()
            summed = (shares @ values) / shares.sum(dim=-1, keepdim=True)
        else:
            summed = scores.softmax(dim=-1) @ values
        found = summed.reshape(asked.shape)  # BxHxNxC
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

    def keys_of(self, image: Tensor) -> Tensor:
        """Project an image's tokens, 1xLxC, to keys, 1xHxDxL; their bias cancels in the softmax."""
        return self._heads_first(self.k_proj.weight @ image.mT)

    def values_of(self, image: Tensor) -> Tensor:
        """Project an image's tokens, 1xLxC, to values, 1xHxDxL."""
        return self._heads_first(self.v_proj.weight @ image.mT + self.v_proj.bias[:, None])

    def queries_of(self, image: Tensor) -> Tensor:
        """Project an image's tokens, 1xLxC, to queries, 1xHxDxL."""
        return self._heads_first(self.q_proj.weight @ image.mT + self.q_proj.bias[:, None])

    def attend_to_shared(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from few `queries`, BxNxC, to an image's `keys_of` and `values_of`: BxNxC."""
        scores = self._scaled(self.q_proj(queries)) @ keys  # BxHxNxL
        out: Tensor = self.out_proj(_join_heads(scores.softmax(dim=-1) @ values.mT))
        return out

    def scores_of_shared(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Score few `keys`, BxNxC, for an image's `queries_of`: BxHxNxL."""
        return self._scaled(self.k_proj(keys)) @ queries

    def scores_of_many(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Score few `keys`, BxNxC, for many `queries`, BxLxC: BxHxNxL."""
        k = self._scaled(self.k_proj(keys))  # BxHxNxD
        asked = k @ self._by_head(self.q_proj)  # BxHxNxC
        bias = k @ self.q_proj.bias.reshape(self.num_heads, self.head_dim, 1)  # BxHxNx1
        scores = asked.flatten(1, 2) @ queries.mT  # Bx(HN)xL
        return scores.reshape(*bias.shape[:3], -1) + bias

    def spread(self, scores: Tensor, values: Tensor) -> Tensor:
        """Return what many queries take of few `values`, BxNxC, by `scores`, BxHxNxL: BxLxC.

        The softmax is written out: backends transpose for one that is not along the last axis. The
        shares of a head add up to 1, so a part of the output's bias in each makes the whole of it;
        multiplied and divided, since the exporter would store a bias that was divided.
        """
        shares = (scores - scores.amax(dim=2, keepdim=True)).exp()
        shares = shares / shares.sum(dim=2, keepdim=True)
        out = self.out_proj.weight.T.reshape(self.num_heads, self.head_dim, -1)  # HxDxC
        projected = self._heads(self.v_proj(values)) @ out  # BxHxNxC
        projected = (projected * self.num_heads + self.out_proj.bias) / self.num_heads
        return shares.flatten(1, 2).mT @ projected.flatten(1, 2)

    def _heads_first(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.num_heads, self.head_dim, -1)  # 1x(HD)xL -> 1xHxDxL

    def _heads(self, x: Tensor) -> Tensor:
        split = x.reshape(*x.shape[:2], self.num_heads, self.head_dim)  # BxNxHxD
        return split.transpose(1, 2)

    def _scaled(self, x: Tensor) -> Tensor:
        return self._heads(x) / math.sqrt(self.head_dim)

    def _by_head(self, linear: nn.Linear) -> Tensor:
        return linear.weight.reshape(self.num_heads, self.head_dim, -1)  # HxDxC


def _join_heads(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)  # BxHxNxD -> BxNx(HD)
