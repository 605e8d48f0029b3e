"""ConvNeXt as CLIP's backbone: four feature maps of one image.

A ConvNet for the 2020s (Liu et al., 2022), section 2; timm's `convnext_large`, which open_clip's
`convnext_large_d_320` is built on, for names. `clip_regions.ClipMaskPool` pools its last map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.norms import LayerNorm2d
from samclip.export.models.ovsam.roi_classifier import Levels

EPS = 1e-6
PATCH = 4
MLP_RATIO = 4
LAYER_SCALE = 1e-6  # where training starts from (section A.1)


@dataclass(frozen=True)
class ConvNextConfig:
    """The size of a ConvNeXt: `depths` blocks of `channels` at strides 4, 8, 16 and 32.

    `embed_dim` is that of CLIP's text.
    """

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    embed_dim: int


# open_clip's model configuration of this name.
CONVNEXT_LARGE_D_320 = ConvNextConfig((192, 384, 768, 1536), (3, 3, 27, 3), embed_dim=768)


class ConvNext(nn.Module):
    """The backbone of a CLIP ConvNeXt, frozen in Open-Vocabulary SAM.

    State-dict keys are those of open_clip's `visual.trunk`, but for the head.
    """

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        self.channels = config.channels
        first = config.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, kernel_size=PATCH, stride=PATCH), LayerNorm2d(first, EPS)
        )
        inputs = (None, *config.channels)
        self.stages = nn.ModuleList(
            ConvNextStage(into, width, depth)
            for into, width, depth in zip(inputs, config.channels, config.depths, strict=False)
        )

    def forward(self, image: Tensor) -> Levels:
        """Encode `image`, Bx3xSxS float, normalised; S is a multiple of 32."""
        x = self.stem(image)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return Levels(*levels)


class ConvNextStage(nn.Module):
    """Blocks of one width, after a halving of a map of `in_channels`: None in the first stage."""

    def __init__(self, in_channels: int | None, channels: int, depth: int) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if in_channels is not None:
            halving = nn.Conv2d(in_channels, channels, kernel_size=2, stride=2)
            self.downsample = nn.Sequential(LayerNorm2d(in_channels, EPS), halving)
        self.blocks = nn.Sequential(*(ConvNextBlock(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map BxCxHxW to BxC'xH'xW'."""
        out: Tensor = self.blocks(self.downsample(x))
        return out


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, LayerNorm and an MLP on each pixel, scaled by `gamma` and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.mlp = ClipMlp(channels, MLP_RATIO * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Map BxCxHxW to the same shape."""
        pixels = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))  # BxHxWxC
        scaled: Tensor = self.gamma * self.mlp(pixels)
        return x + scaled.permute(0, 3, 1, 2)  # BxCxHxW


class ClipMlp(nn.Module):
    """Two linear layers with GELU between, as timm names them."""

    def __init__(self, dim: int, hidden: int, out_dim: int, out_bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out_dim, bias=out_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of `x` through the hidden width."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
