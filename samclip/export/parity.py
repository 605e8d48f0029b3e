"""Parity of exported graphs with the torch model, on real photos: measured, and enforced.

This is the first half of a bundle's proof; `rounding` is the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from samclip.engines.base import GraphSource
from samclip.errors import ParityError
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.graph_files import GraphFiles
from samclip.export.progress import Progress
from samclip.runtime.bundles.manifest import ParityRow

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


def verify_graphs(
    graphs: Sequence[GraphFiles], samples: Sequence[Sample], progress: Progress
) -> tuple[ParityRow, ...]:
    """Compare every variant of every graph with the torch model; raises ParityError beyond limits.

    Errors are max |a - b|, and that over max |b|, b being torch's.
    """
    rows: list[ParityRow] = []
    for graph in graphs:
        own = [sample for sample in samples if sample.graph == graph.name]
        for variant, source in graph.sources():
            with progress(f"verifying {graph.name} ({variant})"):
                rows += measure(source, variant, own)
    enforce(rows)
    return tuple(rows)


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
