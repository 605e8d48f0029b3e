"""The proof that a bundle computes what its checkpoint does, on real photos: measured and enforced.

It has two parts. Exported graphs equal the torch model (parity). Graphs whose weights are stored
rounded come close enough to the exported ones (rounding); these run in a chain, as they will be
used: heads behind the stored encoder, against original heads behind the original encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from samclip.engines.agreement import mask_iou, mean_cosine
from samclip.engines.base import GraphSource
from samclip.errors import ParityError
from samclip.export.cpu_engine import open_on_cpu
from samclip.export.graph_files import GraphFiles
from samclip.progress import Progress
from samclip.runtime.bundles.manifest import ParityRow, RoundingRow, WeightsDtype, base_name

Array = NDArray[np.generic]
TOLERANCE = 1e-4  # of parity: largest absolute error over the largest magnitude, FP32
Row = TypeVar("Row", ParityRow, RoundingRow)
Measure = Literal["cosine", "mask_iou", "difference"]

COARSENESS: tuple[WeightsDtype, ...] = ("fp32", "fp16", "int8")
MEASURES: dict[str, Measure] = {"low_res_masks": "mask_iou", "iou_predictions": "difference"}
LIMITS: dict[WeightsDtype, dict[Measure, float]] = {
    "fp16": {"cosine": 0.9995, "mask_iou": 0.99, "difference": 0.01},
    "int8": {"cosine": 0.995, "mask_iou": 0.95, "difference": 0.05},
}
WORST: dict[Measure, float] = {"cosine": -1.0, "mask_iou": 0.0, "difference": float("inf")}


@dataclass(frozen=True)
class Sample:
    """Inputs of one graph, taken from a real photo or text, and the torch model's outputs.

    `tolerance`: the largest absolute error that passes, over the largest magnitude.
    """

    graph: str
    image: str
    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]
    tolerance: float = field(default_factory=lambda: TOLERANCE)


def make_sample(
    graph: str,
    image: str,
    feeds: Mapping[str, Tensor],
    names: Sequence[str],
    outputs: Sequence[Tensor],
) -> Sample:
    """Make a sample of a graph's inputs on an image, and a torch module's outputs by `names`."""
    arrays = {name: tensor.numpy() for name, tensor in zip(names, outputs, strict=True)}
    return Sample(graph, image, {k: v.numpy() for k, v in feeds.items()}, arrays)


@dataclass(frozen=True)
class GraphPair:
    """A graph as it was exported, and with its weights as they are stored."""

    original: GraphFiles
    stored: GraphFiles

    @property
    def dtype(self) -> WeightsDtype:
        """How the weights are stored."""
        return self.stored.graph.variants[0].weights_dtype


@dataclass(frozen=True)
class Proof:
    """The measurements: exported graphs against torch, stored graphs against exported ones."""

    parity: tuple[ParityRow, ...] = ()
    rounding: tuple[RoundingRow, ...] = ()


def verify(pairs: Sequence[GraphPair], samples: Sequence[Sample], progress: Progress) -> Proof:
    """Run every variant of every graph on its samples; raises ParityError beyond tolerance."""
    parity: list[ParityRow] = []
    for graph in (pair.original for pair in pairs):
        own = [sample for sample in samples if sample.graph == graph.name]
        for variant, source in graph.sources():
            with progress.stage(f"verifying {graph.name} ({variant})"):
                parity += measure(source, variant, own)
    enforce(parity)
    if all(pair.dtype == "fp32" for pair in pairs):
        return Proof(tuple(parity))
    with progress.stage("comparing rounded weights with their originals"):
        rounding = measure_rounding(pairs, samples)
    enforce_rounding(rounding)
    return Proof(tuple(parity), tuple(rounding))


def measure(source: GraphSource, variant: str, samples: Sequence[Sample]) -> list[ParityRow]:
    """Run one exported graph on its samples, on ONNX Runtime's CPU; a row per output and photo.

    Of several samples of one photo (prompt shapes) the worst counts. Errors are max |a - b|, and
    that over max |b|, where b is torch's; values that are not finite count as infinite errors.
    """
    return _worst(
        (
            _parity_row(sample, variant, name, outputs[name], expected)
            for sample, outputs in zip(samples, _run(source, samples, {}), strict=True)
            for name, expected in sample.expected.items()
        ),
        badness=lambda row: row.max_rel_error,
    )


def _parity_row(
    sample: Sample,
    variant: str,
    name: str,
    found: Array,
    expected: Array,
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
        tolerance=sample.tolerance,
    )


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


def measure_rounding(pairs: Sequence[GraphPair], samples: Sequence[Sample]) -> list[RoundingRow]:
    """Run every graph whose weights, or whose encoder's, are rounded; a row per output and photo.

    Of several samples of one photo (prompt shapes) the worst counts.
    """
    rows: list[RoundingRow] = []
    for shape in dict.fromkeys(_shape(pair) for pair in pairs):
        chain = [pair for pair in pairs if _shape(pair) == shape]
        rows += _measure_chain(chain, samples)
    return rows


def _shape(pair: GraphPair) -> str:
    """Return the part of a graph's name that tells its canvas; empty for the first one."""
    return pair.original.name.removeprefix(base_name(pair.original.name))


def _measure_chain(pairs: Sequence[GraphPair], samples: Sequence[Sample]) -> list[RoundingRow]:
    """Compare the graphs of one shape: the encoder, and what is behind it."""
    encoder = next(pair for pair in pairs if base_name(pair.original.name) == "encoder")
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
            expected = list(_run(original, own, exact))
            found = list(_run(stored, own, rounded))
            rows += _rounding_rows(variant, dtype, own, expected, found)
    return rows


def _encode(encoder: GraphFiles, samples: Sequence[Sample]) -> dict[str, Mapping[str, Array]]:
    """Run an encoder on every photo; returns its outputs by the photo's name."""
    own = [sample for sample in samples if sample.graph == encoder.name]
    source = encoder.sources()[0][1]
    return dict(zip((sample.image for sample in own), _run(source, own, {}), strict=True))


def _run(
    source: GraphSource, samples: Sequence[Sample], encoded: Mapping[str, Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """Run a graph on its samples; an encoder's outputs in `encoded`, by photo, replace theirs."""
    with closing(open_on_cpu(source)) as engine:
        for sample in samples:
            own = encoded.get(sample.image, {})
            outputs = engine.run({name: own.get(name, x) for name, x in sample.feeds.items()})
            yield {name: tensor.numpy() for name, tensor in outputs.items()}


def _worst(rows: Iterable[Row], badness: Callable[[Row], float]) -> list[Row]:
    """Keep the worst row of each output and photo, in the order in which they come first."""
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.image, row.output)
        if key not in worst or badness(row) > badness(worst[key]):
            worst[key] = row
    return list(worst.values())


def _rounding_rows(
    variant: str,
    dtype: WeightsDtype,
    samples: Sequence[Sample],
    expected: Sequence[Mapping[str, Array]],
    found: Sequence[Mapping[str, Array]],
) -> list[RoundingRow]:
    rows = []
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
            rows.append(row)
    return _worst(rows, badness=lambda row: -row.margin)


def compare(measure: Measure, found: Array, expected: Array) -> float:
    """Compare two outputs of one shape.

    "cosine": between vectors along axis 1, the mean over all positions; "mask_iou": of all masks
    taken together, which are the logits above 0; "difference": the largest absolute one. Values
    that are not finite give the worst result.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return WORST[measure]
    if measure == "difference":
        return float(np.abs(a - b).max())
    if measure == "mask_iou":
        return mask_iou(a > 0, b > 0)
    return mean_cosine(a, b)


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
