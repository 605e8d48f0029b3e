"""Self-attention with decomposed relative positions: one definition, five exact lowerings.

A query at (i, j) attends to a key at (k, l) of the same h x w grid with the score

    q . k / sqrt(d)  +  q . Rh[i - k]  +  q . Rw[j - l]

(MViTv2, Li et al., 2022, "decomposed relative position embedding"; segment-anything's
`add_decomposed_rel_pos`). `rel_h(q)`, the second term for every k, and `rel_w(q)`, the third for
every l, are computed once here. The way they enter the scores is the *lowering*, chosen per target:

- `bias`: attention with rel_h + rel_w as an additive mask, (h*w) x (h*w) per head;
- `fused`: the same as ONNX's own `Attention` operator, which opset 23 has; `bias` is written in its
  parts, which older runtimes read;
- `fold`: q is extended by rel_h(q) and rel_w(q), k by the one-hot row and column of its place, so
  that attention without a mask computes the sum;
- `chunk`: `bias` for a few rows of queries at a time, which bounds memory;
- `wide`: `chunk` with more rows at a time, for runtimes that pack keys and values again for each
  product, and that hold no more than a chunk's mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import ExportError

Lowering = Literal["bias", "fold", "chunk", "wide", "fused"]
LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)
# From heads BxNxLxD, values BxNxLxD and the padding of keys to BxNxLxD.
Recursion = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Scores that one chunk may hold per image or window: 64 MiB as float32, 256 MiB if wide. SAM's
# windows (14 x 14) stay whole; its 64 x 64 global layers take 13 chunks in ViT-B, 4 wide ones.
MAX_CHUNK_SCORES = 2**24
MAX_WIDE_CHUNK_SCORES = 2**26


class LoweredAttention(nn.Module):
    """An attention whose form in the graph is chosen per target; `lowering` changes no result."""

    lowering: Lowering = "bias"

    def chunks(self, lowering: Lowering) -> int:
        """Count the parts in which a lowering takes the queries."""
        del lowering
        return 1


class RelPosAttention(LoweredAttention):
    """Multi-head self-attention on a fixed grid of tokens, `input_size` = (h, w).

    State-dict keys are those of segment-anything's `Attention`: `qkv`, `proj`, `rel_pos_h`
    (2h-1 x head_dim) and `rel_pos_w` (2w-1 x head_dim).
    """

    index_h: Tensor
    index_w: Tensor
    places: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        input_size: tuple[int, int],
        lowering: Lowering = "bias",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input_size = input_size
        self.lowering: Lowering = lowering
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        height, width = input_size
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * height - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * width - 1, self.head_dim))
        # Constants, so that an exported graph holds no index arithmetic.
        self.register_buffer("index_h", relative_index(height), persistent=False)
        self.register_buffer("index_w", relative_index(width), persistent=False)
        self.register_buffer("places", one_hot_places(height, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each grid of `x`, BxHxWxC float, where (H, W) is `input_size`."""
        return self._attend(x)[0].reshape(x.shape)

    def twice(self, x: Tensor, again: Recursion) -> tuple[Tensor, Tensor]:
        """Attend as `forward` does, and from its result once more: BxHxWxC and BxHxWxC."""
        plain, v = self._attend(x)
        recursive = self._join(again(self._heads(plain), v, None))
        return plain.reshape(x.shape), recursive.reshape(x.shape)

    def _attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the result of attention, BxLxC, and the values, BxNxLxD."""
        # Linear layers get three axes: some versions of TensorRT compute a wrong product where one
        # on BxHxWxC is split into queries, keys and values.
        q, k, v = (self._heads(part) for part in self.qkv(x.flatten(1, 2)).chunk(3, dim=-1))
        return self._join(self.attend(q, k, v, *self.relative_terms(q))), v

    def _join(self, heads: Tensor) -> Tensor:
        """Project BxNxLxD to BxLxC."""
        # A real copy: which strides fused attention returns depends on the kernel chosen, and
        # torch.export would bake in a view that fits one kernel only.
        heads = heads.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # BxLxNxD
        out: Tensor = self.proj(heads.flatten(2))
        return out

    def crop(self, grid: tuple[int, int]) -> None:
        """Attend on the upper left `grid` (h, w) of the grid that the weights are for.

        The tables stay whole, so that all sizes share them: an offset has the same row in each.
        """
        height, width = grid
        self.input_size = grid
        self.index_h = relative_index(height, len(self.rel_pos_h))
        self.index_w = relative_index(width, len(self.rel_pos_w))
        self.places = one_hot_places(height, width)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)  # BxNxLxD

    def relative_terms(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Score each query of `q` (BxNxLxD, not scaled) against every row and every column.

        Returns rel_h, BxNxLxH, and rel_w, BxNxLxW.
        """
        grid = q.reshape(*q.shape[:2], *self.input_size, q.shape[-1])  # BxNxHxWxD
        rows = F.embedding(self.index_h, self.rel_pos_h)  # HxHxD, query row by key row
        columns = F.embedding(self.index_w, self.rel_pos_w)  # WxWxD
        rel_h = grid @ rows.transpose(1, 2)  # BxNxHxWxH
        rel_w = (grid.transpose(2, 3) @ columns.transpose(1, 2)).transpose(2, 3)  # BxNxHxWxW
        return rel_h.flatten(2, 3), rel_w.flatten(2, 3)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        """Run the chosen lowering: BxNxLxD queries, keys and values to BxNxLxD."""
        if self.lowering == "fold":
            return self._fold(q, k, v, rel_h, rel_w)
        chunks = self.chunks(self.lowering)
        if chunks == 1:
            return self._bias(q, k, v, rel_h, rel_w)
        height, width = self.input_size
        step = width * -(-height // chunks)  # whole rows, the last chunk may have fewer
        parts = zip(*(torch.split(x, step, dim=2) for x in (q, rel_h, rel_w)), strict=True)
        return torch.cat([self._bias(q_, k, v, h_, w_) for q_, h_, w_ in parts], dim=2)

    def _bias(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        """Attend from some queries, BxNxQxD, with an additive mask BxNxQxL."""
        mask = (rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)).flatten(3)  # BxNxQx(H*W)
        return scaled_attention(q, k, v, mask)

    def _fold(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
        """Attend without a mask on vectors of D + H + W; values keep D."""
        places = self.places.expand(k.shape[0], k.shape[1], -1, -1)  # BxNxLx(H+W)
        q = torch.cat([q * self.scale, rel_h, rel_w], dim=-1)  # BxNxLx(D+H+W)
        k = torch.cat([k, places.to(k.dtype)], dim=-1)
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)

    def chunks(self, lowering: Lowering) -> int:
        """Count the chunks: each has as many whole rows as the lowering's bound admits, or one.

        The batch is left out, so that a graph with a dynamic batch has fixed chunks.
        """
        if lowering not in {"chunk", "wide"}:
            return 1
        height, width = self.input_size
        per_row = self.num_heads * width * height * width
        bound = MAX_CHUNK_SCORES if lowering == "chunk" else MAX_WIDE_CHUNK_SCORES
        return -(-height // max(1, bound // per_row))


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend as `scaled_dot_product_attention` does, with 1 / sqrt(D) on the queries alone.

    `q`, `k`, `v`: BxNxLxD; a `mask` is added to the scores. torch's exporter would write
    sqrt(scale) on the queries and on the keys, which some versions of TensorRT compute wrongly.
    """
    q = q * q.shape[-1] ** -0.5
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def query_chunks(lowering: Lowering, num_heads: int, tokens: int) -> int:
    """Count the chunks of queries among `tokens`: each has as many as the bound admits."""
    if lowering not in {"chunk", "wide"}:
        return 1
    bound = MAX_CHUNK_SCORES if lowering == "chunk" else MAX_WIDE_CHUNK_SCORES
    return -(-tokens // max(1, bound // (num_heads * tokens)))


def distinct_lowerings(module: nn.Module, lowerings: Sequence[Lowering]) -> tuple[Lowering, ...]:
    """Leave out `wide` where it would be the same as `chunk` in every attention of `module`."""
    parts = [part for part in module.modules() if isinstance(part, LoweredAttention)]
    if "chunk" in lowerings and all(p.chunks("wide") == p.chunks("chunk") for p in parts):
        return tuple(form for form in lowerings if form != "wide")
    return tuple(lowerings)


def relative_index(size: int, rows: int | None = None) -> Tensor:
    """Return rows of a table of relative positions: [query, key] -> query - key + the middle row.

    `rows`: of the table, an odd number; None for the least, 2 * size - 1.
    """
    place = torch.arange(size)
    middle = size - 1 if rows is None else rows // 2
    return place[:, None] - place[None, :] + middle


def one_hot_places(height: int, width: int) -> Tensor:
    """Return the one-hot row and column of tokens in row-major order: (H*W) x (H+W) float32."""
    rows = torch.eye(height).repeat_interleave(width, dim=0)  # (H*W)xH
    columns = torch.eye(width).repeat(height, 1)  # (H*W)xW
    return torch.cat([rows, columns], dim=1)


def set_attention_lowering(module: nn.Module, lowering: Lowering) -> None:
    """Set the lowering of every attention in `module` that has one; weights stay as they are.

    Raises ExportError for an unknown lowering.
    """
    if lowering not in LOWERINGS:
        raise ExportError(f"unknown attention lowering {lowering!r}; use {', '.join(LOWERINGS)}")
    for part in module.modules():
        if isinstance(part, LoweredAttention):
            part.lowering = lowering
