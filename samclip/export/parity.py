"""Exported graphs against the torch model, on real photos: measured, printed, stored, enforced.

Prompts to verify mask decoders with, in every shape that their graphs take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samclip.engines.base import GraphSource
from samclip.errors import ParityError
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.specs import TEXT_OUTPUTS
from samclip.runtime.bundles.manifest import ParityRow
from samclip.runtime.pixels.image import Letterbox

TOLERANCE = 1e-4  # largest absolute error over the largest magnitude, FP32


@dataclass(frozen=True)
class Sample:
    """Inputs of one graph taken from a real photo, and what the torch model makes of them."""

    graph: str
    image: str
    feeds: Mapping[str, NDArray[np.generic]]
    expected: Mapping[str, NDArray[np.generic]]


def make_sample(
    graph: str,
    image: str,
    feeds: Mapping[str, Tensor],
    names: Sequence[str],
    outputs: Sequence[Tensor],
) -> Sample:
    """Put together a graph's inputs on an image, and what a torch module gave, by `names`."""
    arrays = {name: tensor.numpy() for name, tensor in zip(names, outputs, strict=True)}
    return Sample(graph, image, {k: v.numpy() for k, v in feeds.items()}, arrays)


@torch.inference_mode()
def text_samples(tower: torch.nn.Module, batches: Iterable[NDArray[np.int64]]) -> list[Sample]:
    """Run the torch text tower on token batches of several sizes."""
    return [
        make_sample(
            "text_encoder",
            "text",
            {"tokens": torch.from_numpy(tokens)},
            TEXT_OUTPUTS,
            (tower(torch.from_numpy(tokens)),),
        )
        for tokens in batches
    ]


def measure(source: GraphSource, variant: str, samples: Sequence[Sample]) -> list[ParityRow]:
    """Run one exported graph on its samples, on ONNX Runtime's CPU; a row per output and photo.

    Of several samples of one photo (prompt shapes) the worst counts. Errors: max |a - b|, and that
    over max |b|, b being torch's; not finite counts as infinite.
    """
    engine = open_on_cpu(source)
    worst: dict[tuple[str, str], ParityRow] = {}
    try:
        for sample in samples:
            outputs = engine.run(sample.feeds)
            for name, expected in sample.expected.items():
                row = _compare(sample, variant, name, outputs[name].numpy(), expected)
                key = (sample.image, name)
                if key not in worst or row.max_rel_error > worst[key].max_rel_error:
                    worst[key] = row
    finally:
        engine.close()
    return list(worst.values())


def enforce(rows: Sequence[ParityRow]) -> None:
    """Raise ParityError naming every row beyond its tolerance."""
    failed = [row for row in rows if not row.max_rel_error <= row.tolerance]
    if failed:
        lines = "\n".join(
            f"  {r.graph} ({r.variant}) {r.output} on {r.image}: "
            f"{r.max_rel_error:.2e}, allowed {r.tolerance:.0e}"
            for r in failed
        )
        raise ParityError(
            f"the exported graphs differ from the torch model:\n{lines}\n"
            "No bundle was written. Try another --opset or --attention, and report this."
        )


def _compare(
    sample: Sample,
    variant: str,
    name: str,
    found: NDArray[np.generic],
    expected: NDArray[np.generic],
) -> ParityRow:
    absolute = relative = float("inf")
    if found.shape == expected.shape and np.isfinite(found).all() and np.isfinite(expected).all():
        absolute = float(np.abs(np.subtract(found, expected)).max())
        relative = absolute / max(float(np.abs(expected).max()), 1e-12)
    return ParityRow(
        graph=sample.graph,
        variant=variant,
        output=name,
        image=sample.image,
        max_abs_error=absolute,
        max_rel_error=relative,
        tolerance=TOLERANCE,
    )


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
