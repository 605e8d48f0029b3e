"""Self-correlation among the tokens of a ViT: sharper features for the names of pixels.

RADSeg (arXiv 2511.19704) reads names from C-RADIO's patches in a way that needs no training. Two of
its steps are here, both without weights:

- `RecursiveAttention`, its self-correlating recursive attention. The last block attends as usual,
  o = proj(softmax(q k^T / sqrt(d)) v). Then each head of o, at unit length, is compared with the
  others, S = 10 o o^T, negative scores are left out, and the block attends once more by these,
  proj(softmax(S) v), with the same values and the same projection. What follows, LayerScale, sum
  and MLP, is the block's own. Both results come from one pass: the plain one for SAM's neck and the
  image as a whole, the recursive one for names.
- `TokenAggregation`, its self-correlating global aggregation, in front of the head for names. With
  f the tokens at unit length, A = 10 (f f^T - m), where m is the mean of f f^T, negative scores are
  left out, and f' = softmax(A) f.

The formula leaves f' at most as long as a unit vector. A head for names knows longer tokens, so f'
is multiplied by the mean length of the tokens that it came from, which changes no direction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models import attention
from samclip.export.models.attention import LoweredAttention, Lowering, query_chunks

SCALE = 10.0  # of both correlations
# In place of minus infinity: exp() of it is 0, it is finite in FP16, and numbers remain where a row
# has no other score.
LEFT_OUT = -1e4


class RecursiveAttention(LoweredAttention):
    """Attention among `tokens` tokens by the correlation of what a first attention returned.

    It has no weights. Every lowering writes the same products, `chunk` and `wide` for some queries
    at a time: scores that are left out depend on the scores, which no mask could say in advance.
    """

    def __init__(self, num_heads: int, tokens: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tokens = tokens

    def forward(self, heads: Tensor, values: Tensor, padding: Tensor | None = None) -> Tensor:
        """Attend by the correlation of `heads`, BxNxLxD, with `values`, BxNxLxD: BxNxLxD.

        `padding`, Bx1x1xL, is added to the scores of keys.
        """
        unit = F.normalize(heads, dim=-1)
        step = -(-self.tokens // self.chunks(self.lowering))
        parts = [
            kept_softmax(SCALE * (rows @ unit.mT), padding) @ values
            for rows in torch.split(unit, step, dim=2)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def chunks(self, lowering: Lowering) -> int:
        """Count the chunks of queries, as the attention before it does."""
        return query_chunks(lowering, self.num_heads, self.tokens)


def kept_softmax(scores: Tensor, padding: Tensor | None = None) -> Tensor:
    """Return the softmax over those of ...xQxL scores that are not negative; 0 for the others.

    `padding`, ...x1xL, is added to them afterwards.
    """
    kept = torch.where(scores >= 0, scores, LEFT_OUT)
    return (kept if padding is None else kept + padding).softmax(dim=-1)


class TokenAggregation(nn.Module):
    """Every token of the photo replaced by the mean of those that are like it.

    `leading` tokens before the patches stay as they are, as do patches on padding, which take no
    part.
    """

    def __init__(self, leading: int) -> None:
        super().__init__()
        self.leading = leading

    def forward(self, name_features: Tensor, token_mask: Tensor) -> Tensor:
        """Aggregate `name_features`, BxCxhxw with all tokens in row-major order: BxCxhxw.

        `token_mask`, Bxgxg float32, is 1 for patches of the photo and 0 for padding.
        """
        tokens = name_features.flatten(2).mT  # BxTxC
        patches = tokens[:, self.leading :]  # BxLxC
        inside = token_mask.flatten(1).unsqueeze(-1)  # BxLx1
        count = inside.sum(dim=1, keepdim=True)  # Bx1x1
        lengths = torch.linalg.vector_norm(patches, dim=-1, keepdim=True)  # BxLx1
        length = (lengths * inside).sum(dim=1, keepdim=True) / count  # Bx1x1
        unit = F.normalize(patches, dim=-1) * inside
        centre = unit.sum(dim=1, keepdim=True) / count  # Bx1xC
        mean = (centre * centre).sum(dim=-1, keepdim=True)  # Bx1x1, that of all cosines of pairs
        padding = (1 - inside.mT) * LEFT_OUT  # Bx1xL
        step = max(1, attention.MAX_CHUNK_SCORES // patches.shape[1])
        parts = [
            kept_softmax(SCALE * (rows @ unit.mT - mean), padding) @ unit
            for rows in torch.split(unit, step, dim=1)
        ]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        aggregated = torch.where(inside > 0.5, joined * length, patches)
        if self.leading:
            aggregated = torch.cat([tokens[:, : self.leading], aggregated], dim=1)  # BxTxC
        return aggregated.mT.reshape(name_features.shape)
