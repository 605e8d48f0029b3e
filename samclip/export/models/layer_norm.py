"""Layer normalisation over the channels of feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Normalise each pixel of an NCHW map over its channels, then scale and shift per channel.

    The same function as segment-anything's `LayerNorm2d`, computed channels-last, because only
    `layer_norm` over the last axis becomes one ONNX `LayerNormalization`; the arithmetic written
    out loses all accuracy in float16.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, BxCxHxW float."""
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # BxHxWxC and back

    def last(self, x: Tensor) -> Tensor:
        """Normalise `x`, whose last axis is the channels."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
