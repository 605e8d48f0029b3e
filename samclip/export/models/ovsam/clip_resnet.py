"""CLIP's ResNets: four feature maps of one image, and the attention that pools the last one.

CLIP (Radford et al., 2021), section 2.4 and appendix F; open_clip's `ModifiedResNet` for what the
paper leaves out: three convolutions as the stem, and an average pool before every convolution that
would have a stride. The pool, open_clip's `AttentionPool2d`, is a transformer-style attention whose
query is the map's mean; it returns one vector of the text space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.norms import ConvNorm
from samclip.export.models.ovsam.roi_classifier import Levels
from samclip.export.models.two_way_transformer import CrossAttention

EXPANSION = 4  # of a bottleneck's width
HEAD_DIM = 64  # of the attention pool


@dataclass(frozen=True)
class ResNetConfig:
    """The size of a CLIP ResNet.

    `width` channels after the stem; `depths` bottlenecks at strides 4, 8, 16 and 32. `pool_grid` is
    the side of the last map at the size that CLIP was trained at, `embed_dim` that of its text.
    """

    width: int
    depths: tuple[int, int, int, int]
    embed_dim: int
    pool_grid: int

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at strides 4, 8, 16 and 32."""
        first = EXPANSION * self.width
        return first, 2 * first, 4 * first, 8 * first

    @property
    def pool_heads(self) -> int:
        """Heads of the attention pool."""
        return self.channels[-1] // HEAD_DIM


# Published sizes: open_clip's model configurations of these names; RN50x16 was trained at 384 px.
RN50 = ResNetConfig(width=64, depths=(3, 4, 6, 3), embed_dim=1024, pool_grid=7)
RN50X16 = ResNetConfig(width=96, depths=(6, 8, 18, 8), embed_dim=768, pool_grid=12)


class ClipResNet(nn.Module):
    """CLIP's visual backbone, frozen in Open-Vocabulary SAM; keep it in eval mode.

    Convolutions and their batch norms go in pairs, `conv1.c` and `conv1.bn` for example, so that an
    export folds them like those of other encoders; `ovsam.keys` renames OpenAI's tensors.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.channels = config.channels
        half = config.width // 2
        self.conv1 = ConvNorm(3, half, 3, stride=2)
        self.conv2 = ConvNorm(half, half, 3)
        self.conv3 = ConvNorm(half, config.width, 3)
        widths = (config.width, *config.channels)
        stages = [
            _stage(inputs, outputs, depth, stride=1 if index == 0 else 2)
            for index, (inputs, outputs, depth) in enumerate(
                zip(widths, config.channels, config.depths, strict=False)
            )
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, image: Tensor) -> Levels:
        """Encode `image`, Bx3xSxS float, normalised; S is a multiple of 32."""
        x = F.relu(self.conv1(image))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.avg_pool2d(x, 2)
        level4 = self.layer1(x)
        level8 = self.layer2(level4)
        level16 = self.layer3(level8)
        return Levels(level4, level8, level16, self.layer4(level16))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, an average pool of `stride`, 1x1 up, added to the input, then ReLU.

    `downsample`, the same pool and a 1x1 convolution, fits the input where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // EXPANSION
        self.stride = stride
        self.conv1 = ConvNorm(in_channels, width)
        self.conv2 = ConvNorm(width, width, 3)
        self.conv3 = ConvNorm(width, out_channels)
        changes = stride > 1 or in_channels != out_channels
        self.downsample = ConvNorm(in_channels, out_channels) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map BxCxHxW to BxC'xH/sxW/s."""
        out = F.relu(self.conv1(x))
        out = F.relu(self.conv2(out))
        out = self.conv3(self._pool(out))
        kept = x if self.downsample is None else self.downsample(self._pool(x))
        return F.relu(out + kept)

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


def _stage(in_channels: int, out_channels: int, depth: int, stride: int) -> nn.Sequential:
    """Chain `depth` bottlenecks, the first with the stride."""
    first = Bottleneck(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(Bottleneck(out_channels, out_channels, 1) for _ in range(depth - 1))
    )


class AttentionPool(nn.Module):
    """Maps of a fixed grid to vectors of `embed_dim`.

    Position 0 is the mean's, the others are the cells', row by row. The mean is the only query, so
    it is multiplied with the keys' and values' matrices instead of every cell, which is exact
    (`CrossAttention.attend_to_many`): 74 M multiplications a map for RN50x16 instead of 2.8 G.
    """

    def __init__(self, channels: int, grid: int, num_heads: int, embed_dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, channels) / channels**0.5)
        self.attention = CrossAttention(channels, num_heads, out_dim=embed_dim)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool N maps, NxCxPxP with P the grid, to NxD, not normalised."""
        cells = maps.flatten(2).mT  # NxLxC
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)  # Nx(1+L)xC
        tokens = tokens + self.positional_embedding
        return self.attention.attend_to_many(tokens[:, :1], tokens, tokens).squeeze(1)
