"""C-RADIO's trunk: patches with positions, prefix tokens, blocks, and no norm after them.

Positions are cut from a learned table of 128 x 128, which is resized so that its side is the
longer side of the image in patches. So a photo padded at the bottom and right has the positions
that it has without padding, and with padding left out of attention its tokens are the same.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.radio.attention import MASKED, RadioBlock
from samclip.export.models.radio.sizes import PATCH, TABLE_SIDE, TrunkConfig
from samclip.export.models.self_correlation import RecursiveAttention


class RadioTrunk(nn.Module):
    """The ViT, for one image size; weights are random until loaded.

    State-dict keys: `embedder.weight` (a convolution's), `prefix` (PxC), `positions` (1xLxC, by
    `resize_positions`), and timm's names below `blocks`. With a `recursion`, `both` has patches for
    names in addition: `add_recursion`.
    """

    positions: Tensor

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.table_grid = config.grid  # of the positions
        rows, columns = config.grid
        side, patches = config.window_size, rows * columns
        self.embedder = nn.Conv2d(3, config.width, PATCH, stride=PATCH, bias=False)
        self.prefix = nn.Parameter(torch.zeros(config.prefix, config.width))
        self.register_buffer("positions", torch.zeros(1, patches, config.width))
        self.blocks = nn.ModuleList(
            RadioBlock(
                config.width,
                config.num_heads,
                config.hidden,
                config.prefix + patches if index in config.global_blocks else side**2,
                config.layer_scale,
            )
            for index in range(config.depth)
        )
        self.recursion: RecursiveAttention | None = None

    def crop(self, canvas: tuple[int, int]) -> None:
        """Take images of `canvas` (h, w) pixels, with the positions of the upper left."""
        self.table_grid = self.config.grid
        self.config = replace(self.config, image_size=canvas)

    def cut_positions(self) -> Tensor:
        """Return the positions of the patches, 1xLxC."""
        (height, width), (rows, columns) = self.table_grid, self.config.grid
        if (height, width) == (rows, columns):
            return self.positions
        table = self.positions.reshape(1, height, width, -1)
        return table[:, :rows, :columns].flatten(1, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode `image`, Bx3xHxW float, normalised, zero where it is padding.

        Returns the prefix tokens BxPxC, the patches BxLxC in row-major order, and a mask of these,
        BxL: 1 on the photo, 0 on padding.
        """
        prefix, patches, _, mask = self.both(image)
        return prefix, patches, mask

    def add_recursion(self) -> None:
        """Let the last block, which is global, attend twice; weights stay as they are."""
        rows, columns = self.config.grid
        tokens = self.config.prefix + rows * columns
        self.recursion = RecursiveAttention(self.config.num_heads, tokens)

    def both(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode `image` as `forward` does; the third result is the patches for names, BxLxC.

        They are the last block's by recursive attention, or without that the second result.
        """
        patches = self.embedder(image).flatten(2).mT + self.cut_positions()  # BxLxC
        prefix = self.prefix.expand(patches.shape[0], -1, -1)  # BxPxC
        mask = photo_patches(image)  # BxL
        side, count = self.config.window_size, self.config.prefix
        own = padding_scores(mask)  # Bx1x1xL
        if side:
            patches = by_window(patches, self.config.grid, side)
            own = by_window(own.mT, self.config.grid, side).mT
        everywhere = F.pad(own, (count, 0))  # Bx1x1x(P+L)
        names = None
        for is_global, group in groupby(
            enumerate(self.blocks), lambda item: item[0] in self.config.global_blocks
        ):
            if is_global:
                tokens = torch.cat([prefix, patches], dim=1)  # Bx(P+L)xC
                for index, block in group:
                    if self.recursion is not None and index == self.config.depth - 1:
                        last = cast("RadioBlock", block)
                        tokens, recursive = last.twice(tokens, self.recursion, everywhere)
                        names = recursive[:, count:]
                    else:
                        tokens = block(tokens, everywhere)
                prefix, patches = tokens[:, :count], tokens[:, count:]
                continue
            windows = patches.reshape(-1, side**2, patches.shape[-1])  # (B*windows)xwwxC
            inside = own.reshape(-1, 1, 1, side**2)  # (B*windows)x1x1xww
            for _, block in group:
                windows = block(windows, inside)
            patches = windows.reshape(patches.shape)  # BxLxC
        if side:
            patches = in_rows(patches, self.config.grid, side)
            names = None if names is None else in_rows(names, self.config.grid, side)
        return prefix, patches, patches if names is None else names, mask


def photo_patches(image: Tensor) -> Tensor:
    """Mark patches that hold any of the photo: Bx3xHxW, normalised, to BxL, 1 or 0.

    Padding is zero after normalisation, and a photo's pixel never is in all its channels: the means
    lie between the whole numbers of [0, 255].
    """
    batch, _, height, width = image.shape
    largest = torch.maximum(image, -image).amax(dim=1)  # BxHxW
    cells = largest.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH)
    return (cells.amax(dim=(2, 4)) > 0).to(image.dtype).flatten(1)


def padding_scores(mask: Tensor) -> Tensor:
    """Return what is added to the scores of keys, Bx1x1xL: 0 where `mask`, BxL, is 1."""
    return ((1 - mask) * MASKED)[:, None, None]


def by_window(tokens: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Put tokens, ...xLxC in row-major order, into the order of windows and rows inside these."""
    rows, columns = grid[0] // side, grid[1] // side
    cells = tokens.reshape(-1, rows, side, columns, side, tokens.shape[-1])  # BxRxsxSxsxC
    return cells.transpose(2, 3).reshape(tokens.shape)


def in_rows(tokens: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Undo `by_window`."""
    rows, columns = grid[0] // side, grid[1] // side
    cells = tokens.reshape(-1, rows, columns, side, side, tokens.shape[-1])  # BxRxSxsxsxC
    return cells.transpose(2, 3).reshape(tokens.shape)


def resize_positions(table: Tensor, grid: tuple[int, int], align_corners: bool) -> Tensor:
    """Return the positions of an image of `grid` patches: 1x(128*128)xC to 1xLxC float32.

    The table is resized to the longer side, bilinear, and cut at the top left.
    """
    rows, columns = grid
    side = max(grid)
    maps = table.float().reshape(1, TABLE_SIDE, TABLE_SIDE, -1).permute(0, 3, 1, 2)  # 1xCx128x128
    if side != TABLE_SIDE:
        maps = F.interpolate(maps, (side, side), mode="bilinear", align_corners=align_corners)
    return maps[..., :rows, :columns].flatten(2).mT.contiguous()  # 1xLxC
