"""How well embeddings of regions fit texts: the last step of both classifiers."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

# What CLIP's training ends at, as the released code writes it down: exp of four decimals, 100.0017.
LOGIT_SCALE = math.exp(4.6052)


def text_logits(embeddings: Tensor, text: Tensor) -> Tensor:
    """Score N embeddings, NxD, against K unit rows `text`, KxD: NxK, scaled cosines.

    The background class is no row: its text is the zero vector, so its logit is 0 for any region;
    `samclip.runtime.tasks.namers` adds it. Synonyms are rows of their own, the best of which counts
    on the host.
    """
    return LOGIT_SCALE * (F.normalize(embeddings, dim=-1) @ text.mT)
