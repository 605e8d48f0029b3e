"""The necks of Open-Vocabulary SAM on a CLIP backbone's maps: SAM2CLIP, and the feature pyramid.

SAM2CLIP computes SAM's image embeddings, distilled from SAM-H (Yuan et al., 2024, "SAM2CLIP"). The
paper speaks of upsampling by interpolation; the released code, followed here, brings each level to
stride 16 by a separate convolution (repository HarborYuan/ovsam,
`seg/models/necks/transformer_neck.py`).

The pyramid, from which regions are classified ("CLIP2SAM"), is that of Feature Pyramid Networks
(Lin et al., 2017), section 3, without norms or activations, as mmdet's `FPN` is by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.block import SamVitBlock
from samclip.export.models.ovsam.roi_classifier import STRIDES, Levels
from samclip.export.models.sam_vit import EMBED_CHANNELS, sam_neck

TOKEN_STRIDE = 16


@dataclass(frozen=True)
class NeckConfig:
    """The size of the neck: `depth` blocks of `width` channels, the last one global.

    The others attend within windows of `window_size` tokens a side.
    """

    width: int
    depth: int
    num_heads: int
    window_size: int = 14
    out_channels: int = EMBED_CHANNELS


# The size of the published neck: five blocks like SAM-H's.
SAM_H_NECK = NeckConfig(width=1280, depth=5, num_heads=16)


class Sam2ClipNeck(nn.Module):
    """Neck for square images of `image_size` pixels, a multiple of 32.

    `pos_embed` is SAM-H's own, which the released code keeps as it is: a buffer, not trained.
    State-dict keys are those of the published `neck_student.`, but for `patch_embeds`.
    """

    pos_embed: Tensor

    def __init__(self, config: NeckConfig, channels: Sequence[int], image_size: int = 1024) -> None:
        super().__init__()
        self.grid = image_size // TOKEN_STRIDE
        self.patch_embeds = nn.ModuleList(
            to_tokens(inputs, config.width, stride)
            for inputs, stride in zip(channels, STRIDES, strict=True)
        )
        self.level_encoding = nn.Embedding(len(STRIDES), config.width)
        self.register_buffer("pos_embed", torch.zeros(1, self.grid, self.grid, config.width))
        self.blocks = nn.ModuleList(
            SamVitBlock(
                config.width,
                config.num_heads,
                (self.grid, self.grid),
                window_size=0 if index == config.depth - 1 else config.window_size,
            )
            for index in range(config.depth)
        )
        self.neck = sam_neck(config.width, config.out_channels)

    def forward(self, levels: Levels) -> Tensor:
        """Map a backbone's levels to image embeddings, BxC'xGxG with G = S / 16."""
        x = self.pos_embed
        for level, embed, encoding in zip(
            levels, self.patch_embeds, self.level_encoding.weight, strict=True
        ):
            x = x + (embed(level).permute(0, 2, 3, 1) + encoding)  # BxGxGxC
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))  # BxC'xGxG
        return out


def to_tokens(in_channels: int, width: int, stride: int) -> nn.Conv2d | nn.ConvTranspose2d:
    """Make the convolution that brings a map of some stride to one token per 16 pixels."""
    if stride > TOKEN_STRIDE:
        factor = stride // TOKEN_STRIDE
        return nn.ConvTranspose2d(in_channels, width, kernel_size=factor, stride=factor)
    factor = TOKEN_STRIDE // stride
    return nn.Conv2d(in_channels, width, kernel_size=factor, stride=factor)


class Fpn(nn.Module):
    """A pyramid of `out_channels` on maps of `channels` at strides 4, 8, 16 and 32.

    Coarser laterals are added to finer ones, each value repeated to 2x2.
    """

    def __init__(self, channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            nn.Conv2d(inputs, out_channels, kernel_size=1) for inputs in channels
        )
        self.fpn_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1) for _ in channels
        )

    def forward(self, levels: Levels) -> Levels:
        """Map a backbone's levels to levels of `out_channels` at the same strides."""
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, levels, strict=True)]
        for finer in reversed(range(len(laterals) - 1)):
            coarse = F.interpolate(laterals[finer + 1], scale_factor=2, mode="nearest")
            laterals[finer] = laterals[finer] + coarse
        return Levels(*(conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)))
