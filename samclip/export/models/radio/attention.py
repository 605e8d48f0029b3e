"""C-RADIO's attention: no positions, some keys are padding; its lowerings, and the block around it.

Keys on padding get a large negative number added to their scores, so that tokens of the photo see
what they would see without padding. In the lowering `fold` that number is a further part of the
keys, and no mask is left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.attention import (
    LoweredAttention,
    Lowering,
    Recursion,
    query_chunks,
    scaled_attention,
)

# Far below every score, finite in FP16, and exp(x) of it is 0. Unlike minus infinity it leaves
# numbers where a window is nothing but padding.
MASKED = -1e4
FOLDED = 8  # columns that carry it: heads stay multiples of 8 wide, which GPUs' kernels want


class PlainAttention(LoweredAttention):
    """Multi-head self-attention among `tokens` tokens; keys are timm's: `qkv` and `proj`."""

    def __init__(self, dim: int, num_heads: int, tokens: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tokens = tokens
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Attend among tokens, BxLxC; `padding`, Bx1x1xL, is added to the scores of keys."""
        return self._join(self.attend(*self._qkv(x), padding))

    def twice(
        self, x: Tensor, again: Recursion, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend as `forward` does, and from its result once more: BxLxC and BxLxC."""
        q, k, v = self._qkv(x)
        plain = self._join(self.attend(q, k, v, padding))
        return plain, self._join(again(self._heads(plain), v, padding))

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self._heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def _join(self, heads: Tensor) -> Tensor:
        """Project BxNxLxD to BxLxC."""
        # A real copy: which strides fused attention returns depends on the kernel chosen.
        heads = heads.transpose(1, 2).clone(memory_format=torch.contiguous_format)  # BxLxNxD
        out: Tensor = self.proj(heads.flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.num_heads, self.head_dim).transpose(1, 2)  # BxNxLxD

    def attend(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        """Run the chosen lowering: BxNxLxD queries, keys and values to BxNxLxD."""
        if self.lowering == "fold":
            return _fold(q, k, v, padding)
        if self.lowering == "fused" and padding is not None:  # the operator wants a row a query
            padding = padding.expand(-1, -1, q.shape[2], -1)
        step = -(-q.shape[2] // self.chunks(self.lowering))
        parts = [_attend(each, k, v, padding) for each in torch.split(q, step, dim=2)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def chunks(self, lowering: Lowering) -> int:
        """Count the chunks of queries: each has as many as the lowering's bound admits."""
        return query_chunks(lowering, self.num_heads, self.tokens)


def _attend(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
    if padding is None:
        return F.scaled_dot_product_attention(q * q.shape[-1] ** -0.5, k, v, scale=1.0)
    return scaled_attention(q, k, v, padding)


def _fold(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
    """Attend without a mask: queries are extended by ones, keys by parts of `padding`."""
    q = q * q.shape[-1] ** -0.5
    if padding is not None:
        shares = (padding.mT / FOLDED).expand(-1, k.shape[1], -1, FOLDED)  # BxNxLx8
        q, k = F.pad(q, (0, FOLDED), value=1.0), torch.cat([k, shares], dim=-1)
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


class RadioMlp(nn.Module):
    """Two linear layers with GELU between; keys are timm's, `fc1` and `fc2`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ...xC to ...xC."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learned factor for each channel; key `gamma`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ...xC."""
        return x * self.gamma


class RadioBlock(nn.Module):
    """Pre-norm block among `tokens` tokens, with LayerScale or without; keys are timm's."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden: int,
        tokens: int,
        layer_scale: bool,
        eps: float = 1e-6,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = PlainAttention(dim, num_heads, tokens, qkv_bias)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = RadioMlp(dim, hidden)
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Transform tokens, BxLxC; `padding` is that of `PlainAttention`."""
        return self._finish(x, self.attn(self.norm1(x), padding))

    def twice(
        self, x: Tensor, again: Recursion, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Transform tokens as `forward` does, and once more by recursive attention: BxLxC each."""
        plain, recursive = self.attn.twice(self.norm1(x), again, padding)
        return self._finish(x, plain), self._finish(x, recursive)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.ls1(attended)
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out
