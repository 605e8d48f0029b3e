"""The convolutional parts of TinyViT: patch embedding, inverted bottleneck, patch merging.

All take and return BxCxHxW features. After TinyViT (Wu et al., arXiv 2207.10666, section 3.3) as
configured by MobileSAM (Zhang et al., arXiv 2306.14289).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.conv_norm import ConvNorm


class PatchEmbed(nn.Module):
    """Two strided 3x3 convolutions with a GELU between: Bx3xSxS -> BxCxS/4xS/4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, 3, stride=2),
            nn.GELU(),
            ConvNorm(width // 2, width, 3, stride=2),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Embed a normalised Bx3xSxS image."""
        out: Tensor = self.seq(image)
        return out


class MBConv(nn.Module):
    """Inverted bottleneck with a residual: 1x1 up, 3x3 depthwise, 1x1 down; shape kept."""

    def __init__(self, width: int, expand_ratio: float) -> None:
        super().__init__()
        hidden = int(width * expand_ratio)
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width, bn_weight=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Refine BxCxHxW features; a GELU follows the residual sum."""
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """From one stage to the next: BxCxHxW -> BxC'xH/sxW/s with stride s of 1 or 2."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_width, out_width)
        self.conv2 = ConvNorm(out_width, out_width, 3, stride=stride, groups=out_width)
        self.conv3 = ConvNorm(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Widen, mix 3x3 neighbourhoods at the stride, and project."""
        x = F.gelu(self.conv1(x))
        x = F.gelu(self.conv2(x))
        out: Tensor = self.conv3(x)
        return out
