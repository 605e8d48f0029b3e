"""SAM's image encoder: a ViT with windowed attention and a few global layers, then a neck.

Segment Anything (Kirillov et al., 2023), appendix A, which takes the backbone from ViTDet
(Li et al., 2022); segment-anything's `ImageEncoderViT` and `build_sam.py` for the sizes. The neck
maps the blocks' features to the image embeddings that the mask decoder takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from samclip.export.models.block import SamVitBlock
from samclip.export.models.norms import LayerNorm2d
from samclip.export.models.self_correlation import RecursiveAttention

EMBED_CHANNELS = 256


@dataclass(frozen=True)
class SamVitConfig:
    """The size of an encoder: `width` channels, `out_channels` after the neck.

    Of `depth` blocks those in `global_blocks` (counted from 0) have global attention, the others
    attend within windows of `window_size` tokens a side.
    """

    width: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    window_size: int = 14
    mlp_ratio: float = 4.0
    out_channels: int = 256
    patch_size: int = 16


SAM_VIT_CONFIGS: Mapping[str, SamVitConfig] = MappingProxyType(
    {
        "vit_b": SamVitConfig(768, 12, 12, (2, 5, 8, 11)),
        "vit_l": SamVitConfig(1024, 24, 16, (5, 11, 17, 23)),
        "vit_h": SamVitConfig(1280, 32, 16, (7, 15, 23, 31)),
    }
)


class SamVit(nn.Module):
    """Image encoder for square images of `image_size` pixels, a multiple of the patch size.

    State-dict keys are those of segment-anything's `image_encoder`, without the prefix. Weights
    made for another image size fit after `fit_positions(state, encoder)`. With a `recursion` there
    are features for names in addition: `add_recursion`.
    """

    def __init__(self, config: SamVitConfig, image_size: int = 1024) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.grid = image_size // config.patch_size  # of the image embeddings
        self.backbone_grid = self.grid  # of the backbone's features
        self.cells = (self.grid, self.grid)
        self.backbone_channels = config.width
        self.patch_embed = SamVitPatchEmbed(config.width, config.patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, config.width))
        self.blocks = nn.ModuleList(
            SamVitBlock(
                config.width,
                config.num_heads,
                (self.grid, self.grid),
                window_size=0 if index in config.global_blocks else config.window_size,
                mlp_ratio=config.mlp_ratio,
            )
            for index in range(config.depth)
        )
        self.neck = sam_neck(config.width, config.out_channels)
        self.recursion: RecursiveAttention | None = None

    def crop(self, canvas: tuple[int, int]) -> None:
        """Take images of `canvas` (h, w) pixels, with the positions of the square's upper left."""
        rows, columns = (side // self.config.patch_size for side in canvas)
        self.cells = (rows, columns)
        for block in self.blocks:
            if isinstance(block, SamVitBlock):
                block.crop(self.cells)

    def add_recursion(self) -> None:
        """Let the last block, which is global, attend twice; weights stay as they are."""
        self.recursion = RecursiveAttention(self.config.num_heads, math.prod(self.cells))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode `image`, Bx3xSxS float, normalised by SAM's mean and standard deviation.

        Returns backbone_features, BxCxGxG before the neck, and image_embeddings, Bx256xGxG after
        it, where G = S / 16; with a `recursion` also name_features, BxCxGxG. h x w instead of
        S x S after `crop`.
        """
        rows, columns = self.cells
        positions: Tensor = self.pos_embed
        if self.cells != tuple(positions.shape[1:3]):
            positions = positions[:, :rows, :columns]
        x = self.patch_embed(image) + positions  # BxGxGxC
        for block in self.blocks[:-1]:
            x = block(x)
        if self.recursion is None:
            features = self.blocks[-1](x).permute(0, 3, 1, 2)  # BxCxGxG
            return features, self.neck(features)
        last = cast("SamVitBlock", self.blocks[-1])
        plain, recursive = (y.permute(0, 3, 1, 2) for y in last.twice(x, self.recursion))
        return plain, self.neck(plain), recursive


class SamVitPatchEmbed(nn.Module):
    """Project each patch of an image to one token."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        """Map Bx3xSxS to tokens BxGxGxC."""
        tokens: Tensor = self.proj(image)  # BxCxGxG
        return tokens.permute(0, 2, 3, 1)


def sam_neck(channels: int, out_channels: int = EMBED_CHANNELS) -> nn.Sequential:
    """Make SAM's neck: BxCxGxG features of `channels` to image embeddings BxC'xGxG.

    Keys are those of segment-anything's `ImageEncoderViT.neck`.
    """
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
