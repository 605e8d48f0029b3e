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
    """Upscales a map of `side` x `side` logits."""

    positions: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("positions", torch.arange(side, dtype=torch.float32)[None])  # 1xG

    def forward(self, low_res_mask: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """`low_res_mask` GxG, `rows` Hx3, `columns` Wx3 -> mask HxW uint8 (0, 1), logits HxW."""
        upright = self._weights(rows) @ low_res_mask  # HxG
        logits = upright @ self._weights(columns).T  # HxW
        # TensorRT makes uint8 of float32 alone.
        return (logits > MASK_THRESHOLD).float().to(torch.uint8), logits

    def _weights(self, taps: Tensor) -> Tensor:
        """Return the share of each position of the map: NxG of Nx3 taps."""
        first, second, share = torch.split(taps, 1, dim=1)
        return self._tent(first) * (1 - share) + self._tent(second) * share

    def _tent(self, places: Tensor) -> Tensor:
        """Return the weights of linear interpolation at N places: NxG of Nx1."""
        away = torch.maximum(places - self.positions, self.positions - places)
        return torch.relu(1 - away)


def mask_upscaler_graph(image_size: int) -> PlainGraph:
    """Return the graph for a decoder behind an encoder of this input size."""
    return PlainGraph(UPSCALER, partial(_spec, image_size))


def _spec(image_size: int) -> GraphSpec:
    side = image_size // MASK_STRIDE
    height, width = TRACED
    inputs = {
        "low_res_mask": torch.rand(side, side),
        "rows": torch.rand(height, 3),
        "columns": torch.rand(width, 3),
    }
    module = MaskUpscaler(side)
    return GraphSpec(UPSCALER, module, inputs, (FULL_MASK, FULL_LOGITS), DYNAMIC_AXES)


def mask_upscaler_samples(image_size: int, photo: Path) -> list[Sample]:
    """Return logits at the size of a photo, and what the runtime's own resize makes of them.

    The mask is left out: a logit may lie as close to the threshold as the last bit.
    """
    pixels = load_image(photo)
    letterbox = Letterbox.fit((pixels.shape[0], pixels.shape[1]), image_size)
    side = image_size // MASK_STRIDE
    logits = np.random.default_rng(0).normal(0, 8, (side, side)).astype(np.float32)
    rows, columns = letterbox.upscale_taps(side)
    feeds = {"low_res_mask": logits, "rows": rows, "columns": columns}
    return [Sample(UPSCALER, photo.name, feeds, {FULL_LOGITS: letterbox.upscale(logits)})]
