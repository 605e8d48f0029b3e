"""The graphs of mask decoders, and their example prompts: one batch to trace, three to verify.

Both families' decoders take the same five inputs; prompts and points are dynamic axes. For prompts
without masks there are two more graphs, on the same weights: what is the same for all prompts on an
image, and the rest. They are for CPUs, which are limited by arithmetic; GPUs keep to one graph, and
so to one plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from samclip.export.graphs import GraphSpec, PlainGraph
from samclip.export.models.mask_decoder import ImageKeys, PointDecoder, PromptedDecoder
from samclip.export.models.merged import PATCH
from samclip.export.options import CPU_BACKENDS
from samclip.export.verification import Sample, make_sample
from samclip.runtime.graph_outputs import IMAGE_KEYS, IMAGE_SIDE, POINT_DECODER
from samclip.runtime.pixels.image import Letterbox

DYNAMIC_AXES = {
    "point_coords": {0: "prompts", 1: "points"},
    "point_labels": {0: "prompts", 1: "points"},
    "mask_input": {0: "prompts"},
    "has_mask_input": {0: "prompts"},
}
POINTS = ("point_coords", "point_labels")


def decoder_graphs(spec: Callable[[], GraphSpec]) -> tuple[PlainGraph, ...]:
    """Return all graphs of a decoder, given that of `mask_decoder`, whose module is prompted."""
    return (
        PlainGraph("mask_decoder", spec),
        PlainGraph(IMAGE_KEYS, lambda: _image_keys_spec(spec()), backends=CPU_BACKENDS),
        PlainGraph(POINT_DECODER, lambda: _point_decoder_spec(spec()), backends=CPU_BACKENDS),
    )


def _image_keys_spec(whole: GraphSpec) -> GraphSpec:
    """`image_embeddings` 1xCxhxw -> the image's part of the decoder, see `ImageKeys`."""
    embeddings = {"image_embeddings": whole.inputs["image_embeddings"]}
    return GraphSpec(IMAGE_KEYS, ImageKeys(_prompted(whole)), embeddings, IMAGE_SIDE)


@torch.no_grad()
def _point_decoder_spec(whole: GraphSpec) -> GraphSpec:
    """Image's part, and prompts of points and boxes -> what `whole` returns of them."""
    decoder = _prompted(whole)
    side = ImageKeys(decoder)(whole.inputs["image_embeddings"])
    inputs = dict(zip(IMAGE_SIDE, side, strict=True)) | {key: whole.inputs[key] for key in POINTS}
    dynamic = {key: DYNAMIC_AXES[key] for key in POINTS}
    return GraphSpec(POINT_DECODER, PointDecoder(decoder), inputs, whole.outputs, dynamic)


def _prompted(whole: GraphSpec) -> PromptedDecoder:
    if not isinstance(whole.module, PromptedDecoder):
        raise TypeError(f"the decoder is a {type(whole.module).__name__}, not a PromptedDecoder")
    return whole.module


def decoder_samples(
    photo: str,
    decoder: PromptedDecoder,
    outputs: Sequence[str],
    embeddings: Tensor,
    letterbox: Letterbox,
) -> list[Sample]:
    """Run a decoder on prompts on a photo; return samples of all its graphs."""
    samples: list[Sample] = []
    side = ImageKeys(decoder)(embeddings)
    image = {"image_embeddings": embeddings}
    samples.append(make_sample(IMAGE_KEYS, photo, image, IMAGE_SIDE, side))
    for prompt in verifying_prompts(embeddings, letterbox):
        found = decoder(**prompt)
        found = found if isinstance(found, tuple) else (found,)
        samples.append(make_sample("mask_decoder", photo, prompt, outputs, found))
        if not prompt["has_mask_input"].any():
            points = dict(zip(IMAGE_SIDE, side, strict=True)) | {key: prompt[key] for key in POINTS}
            samples.append(make_sample(POINT_DECODER, photo, points, outputs, found))
    return samples


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
