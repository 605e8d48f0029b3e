"""Fitting learned positions to another grid of tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

ABSOLUTE = ("pos_embed",)
RELATIVE = ("rel_pos_h", "rel_pos_w")


def resize_absolute(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample absolute positions, 1xHxWxC, to 1 x grid x C.

    Bicubic with antialiasing, half-pixel centres, as timm resamples SAM's own weights
    (`resample_abs_pos_embed_nhwc`). segment-anything itself has only one size.
    """
    if tuple(positions.shape[1:3]) == grid:
        return positions
    nchw = positions.permute(0, 3, 1, 2).float()  # 1xCxHxW
    resized = F.interpolate(nchw, size=grid, mode="bicubic", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1).to(positions.dtype)  # 1xHxWxC


def resize_relative(table: Tensor, length: int) -> Tensor:
    """Resample a table of relative positions, LxC, to `length` = 2 * size - 1 rows.

    Linear, half-pixel centres, as segment-anything's `get_rel_pos` does at every forward pass.
    """
    if table.shape[0] == length:
        return table
    rows = table.t().unsqueeze(0).float()  # 1xCxL
    resized = F.interpolate(rows, size=length, mode="linear", align_corners=False)
    return resized.squeeze(0).t().contiguous().to(table.dtype)  # LxC


def fit_positions(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return `state` with its positions resampled to the shapes that `module` has.

    Only tensors named `pos_embed`, `rel_pos_h` or `rel_pos_w` that both sides have with the same
    number of axes and channels are touched, so any other misfit is left for loading to report.
    """
    own = module.state_dict()
    return {
        key: _fit(key.rpartition(".")[2], value, own[key]) if key in own else value
        for key, value in state.items()
    }


def _fit(name: str, value: Tensor, target: Tensor) -> Tensor:
    if value.ndim != target.ndim or value.shape[-1:] != target.shape[-1:]:
        return value
    if name in ABSOLUTE and value.ndim == 4:
        return resize_absolute(value, (target.shape[1], target.shape[2]))
    if name in RELATIVE and value.ndim == 2:
        return resize_relative(value, target.shape[0])
    return value
