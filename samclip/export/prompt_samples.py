"""Prompts to verify mask decoders with, in every shape that their graphs take."""

from __future__ import annotations

import torch
from torch import Tensor

from samclip.runtime.pixels.image import Letterbox


def example_prompts(embeddings: Tensor, letterbox: Letterbox) -> list[dict[str, Tensor]]:
    """One point; five prompts of three points; a box refined by a mask: all inside the photo.

    `embeddings` is the image's, 1xCxGxG. Gives a decoder's inputs by name.
    """
    height, width = letterbox.input_size
    size = torch.tensor([width, height], dtype=torch.float32)
    grid = 4 * embeddings.shape[-1]
    generator = torch.Generator().manual_seed(0)
    many = torch.rand(5, 3, 2, generator=generator) * size
    mask = torch.randn(1, 1, grid, grid, generator=generator) * 4
    corners = torch.tensor([[[0.25, 0.25], [0.75, 0.75]]]) * size
    point = torch.cat([size[None, None] / 2, torch.zeros(1, 1, 2)], dim=1)  # 1x2x2
    labels = torch.tensor([[1.0, 0.0, -1.0]]).repeat(5, 1)
    return [
        _prompt(embeddings, point, torch.tensor([[1.0, -1.0]]), torch.zeros(1, 1, grid, grid), 0.0),
        _prompt(embeddings, many, labels, torch.zeros(5, 1, grid, grid), 0.0),
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
