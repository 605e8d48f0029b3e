"""The uint8 form of an encoder's input, for every family: its graph normalises and pads.

`samclip.runtime.pixels.encoder_input` describes the form, and makes the inputs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from samclip.export.exportable import Exportable
from samclip.export.graphs import GraphPlan, GraphSpec, LoweredGraph
from samclip.export.verification import Sample
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.encoder_input import IMAGE_SIZE, IMAGE_U8, EncoderInput
from samclip.runtime.pixels.image import load_image

ENCODER = "encoder"


def with_uint8_input(model: Exportable) -> Exportable:
    """Return a model whose encoder takes uint8 pixels.

    Its samples expect what the torch model computes from pixels that the host normalised, so that
    parity holds the graph's normalisation and padding to the host's.
    """
    form = EncoderInput(model.pixels, uint8=True, canvases=(model.pixels.first_canvas,))

    def samples(photo: Path) -> list[Sample]:
        feeds, _ = form.feeds(load_image(photo))
        return [
            replace(sample, feeds=feeds) if sample.graph == ENCODER else sample
            for sample in model.samples(photo)
        ]

    graphs = tuple(_with_uint8_input(graph, model.pixels) for graph in model.graphs)
    shapes = model.shapes
    if shapes is not None:
        at = shapes.at
        shapes = replace(shapes, at=lambda canvas: with_uint8_input(at(canvas)))
    return replace(model, graphs=graphs, samples=samples, shapes=shapes)


def _with_uint8_input(graph: GraphPlan, pixels: Preprocessing) -> GraphPlan:
    if not isinstance(graph, LoweredGraph) or graph.name != ENCODER:
        return graph
    return replace(graph, spec=lambda lowering: uint8_spec(graph.spec(lowering), pixels))


def uint8_spec(spec: GraphSpec, pixels: Preprocessing) -> GraphSpec:
    """Return the spec of an encoder of `image`, for `image_u8` and `image_size` instead."""
    height, width = pixels.first_canvas
    inputs = {
        IMAGE_U8: torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8),
        IMAGE_SIZE: torch.tensor([height // 2, width], dtype=torch.int32),
    }
    return replace(spec, module=Uint8Input(spec.module, pixels), inputs=inputs)


class Uint8Input(nn.Module):
    """An encoder behind the normalisation and the padding of `pixels`.

    Both are computed as the host does, in float32. The cast comes first, because TensorRT lets
    nothing but a cast read uint8. What is padding follows from comparisons with a constant range,
    so that no shape depends on data.
    """

    mean: Tensor
    std: Tensor
    places: Tensor

    def __init__(self, encoder: nn.Module, pixels: Preprocessing) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(pixels.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(pixels.std).view(1, 3, 1, 1))
        self.register_buffer("places", torch.arange(pixels.image_size, dtype=torch.int32))

    def forward(self, image_u8: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        """Encode `image_u8`, 1xSxSx3 uint8 RGB, of which int32 (h, w) = `image_size` is photo."""
        height, width = image_u8.shape[1:3]
        places = self.places
        rows = image_size[:1] > places[:height].view(-1, 1)  # Sx1
        columns = image_size[1:] > places[:width]  # S
        pixels = image_u8.float().permute(0, 3, 1, 2)  # 1xSxSx3 -> 1x3xSxS
        normalised = (pixels - self.mean) / self.std
        encoded: tuple[Tensor, ...] = self.encoder(torch.where(rows & columns, normalised, 0.0))
        return encoded
