"""The proof that a bundle is what its checkpoint is, in two parts: exported, and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.export.exportable import Exportable
from samclip.export.parity import Sample, enforce, measure, text_samples
from samclip.export.progress import Progress
from samclip.export.rounding import GraphPair, enforce_rounding, measure_rounding
from samclip.runtime.bundles.manifest import ParityRow, RoundingRow
from samclip.runtime.pixels.image import photo_paths

MAX_PHOTOS = 8


@dataclass(frozen=True)
class Proof:
    """What was measured: exported graphs against torch, stored graphs against exported ones."""

    parity: tuple[ParityRow, ...] = ()
    rounding: tuple[RoundingRow, ...] = ()


def verify(
    model: Exportable,
    tokens: Sequence[NDArray[np.int64]],
    pairs: Sequence[GraphPair],
    photos: Path | None,
    progress: Progress,
) -> Proof:
    """Check and run every graph on real photos and on batches of NxL `tokens`.

    Raises ParityError beyond tolerance.
    """
    samples: list[Sample] = []
    for photo in photo_paths(photos)[:MAX_PHOTOS]:
        with progress(f"running the torch model on {photo.name}"):
            samples += model.samples(photo)
    if model.text is not None and model.text.tower is not None:
        samples += text_samples(model.text.tower, tokens)
    parity = _exported(pairs, samples, progress)
    if all(pair.dtype == "fp32" for pair in pairs):
        return Proof(parity)
    with progress("comparing rounded weights with their originals"):
        rounding = measure_rounding(pairs, samples)
    enforce_rounding(rounding)
    return Proof(parity, tuple(rounding))


def _exported(
    pairs: Sequence[GraphPair], samples: Sequence[Sample], progress: Progress
) -> tuple[ParityRow, ...]:
    """Compare every variant of every graph, as exported, with the torch model."""
    rows: list[ParityRow] = []
    for graph in (pair.original for pair in pairs):
        own = [sample for sample in samples if sample.graph == graph.name]
        for variant, source in graph.sources():
            with progress(f"verifying {graph.name} ({variant})"):
                rows += measure(source, variant, own)
    enforce(rows)
    return tuple(rows)
