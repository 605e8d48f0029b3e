"""An engine of a bundle's graph: its accuracy, its times, and for encoders the ratio to torch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from report import Row

from parts.samples import LIMITS, Sample, compare
from parts.timing import Contender, compare_times, kernel_rows
from parts.torch_here import find_torch
from parts.torch_models import torch_reference
from samclip.engines.base import Engine
from samclip.runtime.bundles.manifest import Manifest

# Puts an array onto the engine's device.
Placing = Callable[[Any], Any]


def judge_engine(
    where: str,
    engine: Engine,
    sample: Sample,
    precision: str,
    place: Placing,
    manifest: Manifest,
    options: Namespace,
) -> Iterator[Row]:
    """Yield the accuracy of an engine, then its times."""
    yield from compare(where, sample.expected, engine.run(sample.feeds), LIMITS[precision])
    outputs = list(sample.expected)[-1:]
    placed = {name: place(array) for name, array in sample.feeds.items()}

    def on_device() -> None:
        engine.run(placed, outputs)

    def with_transfers() -> None:
        for tensor in engine.run(sample.feeds, outputs).values():
            tensor.numpy()

    contender = Contender(where, on_device, with_transfers)
    torch = (find_torch(options) or (None, None))[0]
    reference, reason = None, ""
    if sample.graph == "encoder":
        shapes = {tuple(array.shape) for array in sample.expected.values()}
        image = sample.feeds["image"]
        reference, reason = torch_reference(manifest, precision, image, shapes, options)
    yield from compare_times(where, contender, reference, reason, options, torch)
    if sample.graph in ("encoder", "clip_head"):
        yield from kernel_rows(where, contender, options, torch)
