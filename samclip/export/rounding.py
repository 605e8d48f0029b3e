"""Graphs whose weights are stored rounded, against their originals: measured, stored, enforced.

Rounding changes results beyond what `parity` allows, so the proof has two parts: original graphs
equal the torch model, and stored graphs come close enough to the originals, on the same photos.
They run in a chain, as they will be used: heads behind the stored encoder, against original heads
behind the original encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import GraphSource
from samclip.errors import ParityError
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.graph_files import GraphFiles
from samclip.export.parity import Sample
from samclip.export.progress import Progress
from samclip.runtime.bundles.manifest import RoundingRow, WeightsDtype

Array = NDArray[np.generic]
Measure = Literal["cosine", "mask_iou", "difference"]

COARSENESS: tuple[WeightsDtype, ...] = ("fp32", "fp16", "int8")
MEASURES: dict[str, Measure] = {"low_res_masks": "mask_iou", "iou_predictions": "difference"}
LIMITS: dict[WeightsDtype, dict[Measure, float]] = {
    "fp16": {"cosine": 0.9995, "mask_iou": 0.99, "difference": 0.01},
    "int8": {"cosine": 0.995, "mask_iou": 0.95, "difference": 0.05},
}
WORST: dict[Measure, float] = {"cosine": -1.0, "mask_iou": 0.0, "difference": float("inf")}


@dataclass(frozen=True)
class GraphPair:
    """A graph as it was exported, and with its weights as they are stored."""

    original: GraphFiles
    stored: GraphFiles

    @property
    def dtype(self) -> WeightsDtype:
        """How the weights are stored."""
        return self.stored.graph.variants[0].weights_dtype


def verify_rounding(
    pairs: Sequence[GraphPair], samples: Sequence[Sample], progress: Progress
) -> tuple[RoundingRow, ...]:
    """Compare graphs with rounded weights with their originals; raises ParityError beyond limits.

    There are no rows where all weights are stored as they are.
    """
    if all(pair.dtype == "fp32" for pair in pairs):
        return ()
    with progress("comparing rounded weights with their originals"):
        rows = measure_rounding(pairs, samples)
    enforce_rounding(rows)
    return tuple(rows)


def measure_rounding(pairs: Sequence[GraphPair], samples: Sequence[Sample]) -> list[RoundingRow]:
    """Run every graph whose weights, or whose encoder's, are rounded; a row per output and photo.

    Of several samples of one photo (prompt shapes) the worst counts.
    """
    encoder = next(pair for pair in pairs if pair.original.name == "encoder")
    exact = _encode(encoder.original, samples)
    rounded = exact if encoder.dtype == "fp32" else _encode(encoder.stored, samples)
    rows: list[RoundingRow] = []
    for pair in pairs:
        own = [sample for sample in samples if sample.graph == pair.original.name]
        chained = any(sample.feeds.keys() & rounded.get(sample.image, {}).keys() for sample in own)
        dtype = max(pair.dtype, encoder.dtype if chained else pair.dtype, key=COARSENESS.index)
        if dtype == "fp32":
            continue
        sources = zip(pair.original.sources(), pair.stored.sources(), strict=True)
        for (_, original), (variant, stored) in sources:
            expected, found = _run(original, own, exact), _run(stored, own, rounded)
            rows += _compare_all(variant, dtype, own, expected, found)
    return rows


def enforce_rounding(rows: Sequence[RoundingRow]) -> None:
    """Raise ParityError naming every row beyond its limit."""
    failed = [row for row in rows if not row.margin >= 0]
    if failed:
        lines = "\n".join(
            f"  {r.graph} ({r.variant}, {r.weights_dtype}) {r.output} on {r.image}: "
            f"{r.measure} {r.value:.4f}, allowed {r.limit:g}"
            for r in failed
        )
        raise ParityError(
            f"graphs with rounded weights differ too much from their originals:\n{lines}\n"
            "No bundle was written. Store the weights of these graphs, or of the encoder before "
            "them, more finely: --weights-dtype GRAPH=fp16 (or fp32)."
        )


def compare(measure: Measure, found: Array, expected: Array) -> float:
    """Compare two outputs of one shape.

    "cosine": between vectors along axis 1, the mean over all positions; "mask_iou": of masks, where
    logits are above 0, all taken together; "difference": the largest absolute one. What is not
    finite counts as the worst value there is.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return WORST[measure]
    if measure == "difference":
        return float(np.abs(a - b).max())
    if measure == "mask_iou":
        union = ((a > 0) | (b > 0)).sum()
        return float(((a > 0) & (b > 0)).sum() / union) if union else 1.0
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).mean())


def _encode(encoder: GraphFiles, samples: Sequence[Sample]) -> dict[str, Mapping[str, Array]]:
    """Run an encoder on every photo; by the photo's name."""
    own = [sample for sample in samples if sample.graph == encoder.name]
    source = encoder.sources()[0][1]
    return dict(zip((sample.image for sample in own), _run(source, own, {}), strict=True))


def _run(
    source: GraphSource, samples: Sequence[Sample], encoded: Mapping[str, Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """Run a graph on its samples, with the encoder's outputs in the place of theirs."""
    with closing(open_on_cpu(source)) as engine:
        answers = []
        for sample in samples:
            own = encoded.get(sample.image, {})
            outputs = engine.run({name: own.get(name, x) for name, x in sample.feeds.items()})
            answers.append({name: tensor.numpy() for name, tensor in outputs.items()})
    return answers


def _compare_all(
    variant: str,
    dtype: WeightsDtype,
    samples: Sequence[Sample],
    expected: Sequence[Mapping[str, Array]],
    found: Sequence[Mapping[str, Array]],
) -> list[RoundingRow]:
    worst: dict[tuple[str, str], RoundingRow] = {}
    for sample, wanted, got in zip(samples, expected, found, strict=True):
        for output in wanted:
            measure = MEASURES.get(output, "cosine")
            row = RoundingRow(
                graph=sample.graph,
                variant=variant,
                output=output,
                image=sample.image,
                weights_dtype=dtype,
                measure=measure,
                value=compare(measure, got[output], wanted[output]),
                limit=LIMITS[dtype][measure],
            )
            key = (sample.image, output)
            if key not in worst or row.margin < worst[key].margin:
                worst[key] = row
    return list(worst.values())
