"""The graph that brings one mask's logits to the pixels of its photo, on the device that has them.

Resizing to the encoder's square, cropping, and resizing to the photo are linear and separable: the
answer is R @ logits @ C^T. Each row of R mixes two rows of the first resize, and each of those is
a tent over the positions of the map, see `Letterbox.upscale_taps`. So what differs between photos
is three numbers for each row and column, and the graph needs no shapes as inputs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from samclip.export.graphs import GraphSpec, PlainGraph
from samclip.export.verification import Sample
from samclip.runtime.graph_outputs import FULL_LOGITS, FULL_MASK, MASK_STRIDE, UPSCALER
from samclip.runtime.pixels.image import Letterbox, load_image
from samclip.runtime.pixels.mask_ops import MASK_THRESHOLD

DYNAMIC_AXES = {"rows": {0: "height"}, "columns": {0: "width"}}
TRACED = (7, 5)  # pixels; any will do


class MaskUpscaler(nn.Module):
    """Upscales a map of logits of `size` (h, w)."""

    row_places: Tensor
    column_places: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = (torch.arange(count, dtype=torch.float32)[None] for count in size)
        self.register_buffer("row_places", rows)  # 1xh
        self.register_buffer("column_places", columns)  # 1xw

    def forward(self, low_res_mask: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """`low_res_mask` hxw, `rows` Hx3, `columns` Wx3 -> mask HxW uint8 (0, 1), logits HxW."""
        upright = _weights(rows, self.row_places) @ low_res_mask  # Hxw
        logits = upright @ _weights(columns, self.column_places).T  # HxW
        # TensorRT makes uint8 of float32 alone.
        return (logits > MASK_THRESHOLD).float().to(torch.uint8), logits


def _weights(taps: Tensor, positions: Tensor) -> Tensor:
    """Return the share of each of the map's `positions`, 1xG: NxG of Nx3 taps."""
    first, second, share = torch.split(taps, 1, dim=1)
    return _tent(first, positions) * (1 - share) + _tent(second, positions) * share


def _tent(places: Tensor, positions: Tensor) -> Tensor:
    """Return the weights of linear interpolation at N places: NxG of Nx1."""
    away = torch.maximum(places - positions, positions - places)
    return torch.relu(1 - away)


def mask_upscaler_graph(canvas: tuple[int, int]) -> PlainGraph:
    """Return the graph for a decoder behind an encoder of an input of `canvas` (h, w)."""
    return PlainGraph(UPSCALER, partial(_spec, canvas))


def _spec(canvas: tuple[int, int]) -> GraphSpec:
    rows, columns = (side // MASK_STRIDE for side in canvas)
    height, width = TRACED
    inputs = {
        "low_res_mask": torch.rand(rows, columns),
        "rows": torch.rand(height, 3),
        "columns": torch.rand(width, 3),
    }
    module = MaskUpscaler((rows, columns))
    return GraphSpec(UPSCALER, module, inputs, (FULL_MASK, FULL_LOGITS), DYNAMIC_AXES)


def mask_upscaler_samples(canvas: tuple[int, int], photo: Path) -> list[Sample]:
    """Return logits at the size of a photo, and what the runtime's own resize makes of them.

    The mask is left out: a logit may lie as close to the threshold as the last bit.
    """
    pixels = load_image(photo)
    size = (pixels.shape[0], pixels.shape[1])
    letterbox = Letterbox.choose(size, max(canvas), (canvas,))
    side = max(canvas) // MASK_STRIDE
    logits = np.random.default_rng(0).normal(0, 8, letterbox.grid(side)).astype(np.float32)
    rows, columns = letterbox.upscale_taps(side)
    feeds = {"low_res_mask": logits, "rows": rows, "columns": columns}
    return [Sample(UPSCALER, photo.name, feeds, {FULL_LOGITS: letterbox.upscale(logits)})]
