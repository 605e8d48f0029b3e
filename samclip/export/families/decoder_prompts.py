"""Example prompts of mask decoders: one batch to trace a graph with, three to verify it on.

Both families' decoders take the same five inputs; prompts and points are dynamic axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samclip.export.models.merged import PATCH
from samclip.runtime.pixels.image import Letterbox

DYNAMIC_AXES = {
    "point_coords": {0: "prompts", 1: "points"},
    "point_labels": {0: "prompts", 1: "points"},
    "mask_input": {0: "prompts"},
    "has_mask_input": {0: "prompts"},
}


def tracing_prompts(canvas: tuple[int, int], channels: int = 256) -> dict[str, Tensor]:
    """Return inputs of a decoder by name: two prompts of three points, one of them with a mask."""
    rows, columns = (side // PATCH for side in canvas)
    prompts, points = 2, 3
    return {
        "image_embeddings": torch.rand(1, channels, rows, columns),
        "point_coords": torch.rand(prompts, points, 2) * min(canvas),
        "point_labels": torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 1.0]]),
        "mask_input": torch.rand(prompts, 1, 4 * rows, 4 * columns),
        "has_mask_input": torch.tensor([0.0, 1.0]),
    }


def verifying_prompts(embeddings: Tensor, letterbox: Letterbox) -> list[dict[str, Tensor]]:
    """Return a decoder's inputs by name for prompts of each shape, all inside the photo.

    One point; five prompts of three points; a box refined by a mask. `embeddings` is the image's,
    1xCxhxw.
    """
    height, width = letterbox.input_size
    size = torch.tensor([width, height], dtype=torch.float32)
    grid = [4 * side for side in embeddings.shape[-2:]]
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(5, 3, 2, generator=generator) * size
    mask = torch.randn(1, 1, *grid, generator=generator) * 4
    corners = torch.tensor([[[0.25, 0.25], [0.75, 0.75]]]) * size
    point = torch.cat([size[None, None] / 2, torch.zeros(1, 1, 2)], dim=1)  # 1x2x2
    labels = torch.tensor([[1.0, 0.0, -1.0]]).repeat(5, 1)
    return [
        _prompt(embeddings, point, torch.tensor([[1.0, -1.0]]), torch.zeros(1, 1, *grid), 0.0),
        _prompt(embeddings, many, labels, torch.zeros(5, 1, *grid), 0.0),
        _prompt(embeddings, corners, torch.tensor([[2.0, 3.0]]), mask, 1.0),
    ]


def _prompt(
    embeddings: Tensor, coords: Tensor, labels: Tensor, mask: Tensor, has_mask: float
) -> dict[str, Tensor]:
    return {
        "image_embeddings": embeddings,
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": mask,
        "has_mask_input": torch.full((len(coords),), has_mask),
    }
