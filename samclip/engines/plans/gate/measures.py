"""The measures of the gate: one answer of a plan against FP32's, kept as the worst of all cases.

Places of an output are compared one by one: the positions of a map, the masks, the rows. A cosine
does not see an answer that is too long or too short, so lengths are compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from samclip.engines.agreement import (
    COSINE,
    MASK_IOU,
    SAME_LABEL,
    WORST_COSINE,
    WORST_MASK_IOU,
    cosines,
    mask_iou,
)
from samclip.engines.plans.gate.cases import NOISE, Array, Case, noise_limit
from samclip.engines.plans.gate.verdict import GateRow, Measure, Run

MASKS, SCORES = "low_res_masks", "iou_predictions"  # outputs of the mask decoder
FEWEST = 16  # values of a row that is compared by itself
FAINT = 1e-3  # share of the average length below which a row has none
WORST_PLACE = 0.99  # the least cosine of a single place, in FP32
# Masks that are judged: others may change by a pixel with the last bit of a logit.
MIN_AREA = 64  # pixels of the logits, which are a sixteenth of the input's
STABLE, OFFSET = 0.95, 1.0  # as `everything` has them

Found = dict[Measure, float]


def limits_for(precision: str, library_repeats: bool = True) -> dict[Measure, float]:
    """Return the least value of each measure that is judged.

    `library_repeats`: whether the library must give the same bits each time.
    """
    limits: dict[Measure, float] = {
        "cosine": COSINE[precision],
        "noise_cosine": noise_limit(precision),
        # an error as long along the answer as the cosine allows across it
        "magnitude": round(1 - math.sqrt(2 * (1 - COSINE[precision])), 6),
        "mask_iou": MASK_IOU[precision],
        "finite": 1.0,
    }
    if precision in SAME_LABEL:
        limits["same_label"] = SAME_LABEL[precision]
    if precision in WORST_MASK_IOU:
        limits["mask_iou_worst"] = WORST_MASK_IOU[precision]
    if precision == "fp32":
        limits["cosine_worst"] = WORST_PLACE
    if library_repeats:
        limits["repeats"] = 1.0
    return limits


@dataclass
class Tally:
    """The worst value of each measure, by output and by how the plan ran."""

    precision: str
    library_repeats: bool = True
    _worst: dict[tuple[str, Run, Measure], tuple[float, str]] = field(default_factory=dict)

    def add(self, run: Run, case: Case, found: Mapping[str, Array]) -> None:
        """Compare one answer of the plan with FP32's."""
        for output, expected in case.expected.items():
            measured = measure(output, expected, found[output], case.name == NOISE)
            if output == MASKS and SCORES in case.expected and case.name != NOISE:
                measured |= measure_masks(expected, found[output], case.expected[SCORES])
            for name, value in measured.items():
                self._keep(output, run, name, value, case.name)

    def add_repeat(
        self, run: Run, case: Case, first: Mapping[str, Array], again: Mapping[str, Array]
    ) -> None:
        """Compare two answers of the plan to the same question, bit by bit."""
        for output in case.expected:
            a, b = first[output], again[output]
            same = a.shape == b.shape and a.tobytes() == b.tobytes()
            self._keep(output, run, "repeats", float(same), case.name)

    def add_compared(self, run: Run, case: Case, found: Mapping[str, Array]) -> None:
        """Compare what the graphs after this one make of an answer, where the case does that."""
        if case.compare is None:
            return
        for output, measured in case.compare(case.expected, found).items():
            for name, value in measured.items():
                self._keep(output, run, name, value, case.name)

    def rows(self) -> tuple[GateRow, ...]:
        """Return a row for each measure, with its limit."""
        limits = limits_for(self.precision, self.library_repeats)
        return tuple(
            GateRow(
                output=output,
                run=run,
                measure=name,
                value=round(value, 7),
                limit=limits.get(name),
                case=case,
            )
            for (output, run, name), (value, case) in self._worst.items()
        )

    def _keep(self, output: str, run: Run, name: Measure, value: float, case: str) -> None:
        known = self._worst.get((output, run, name))
        if known is None or value < known[0]:
            self._worst[output, run, name] = (max(-1.0, min(1.0, value)), case)


def measure(output: str, expected: Array, found: Array, is_noise: bool = False) -> Found:
    """Compare one output: the cosine of its places, the length of the whole, finite numbers."""
    cosine: Measure = "noise_cosine" if is_noise else "cosine"
    if found.shape != expected.shape or not np.isfinite(found).all():
        return {cosine: WORST_COSINE, "magnitude": 0.0, "finite": 0.0}
    a, b = (rows_of(output, array) for array in (expected, found))
    each = _place_cosines(a, b)
    measured: Found = {cosine: float(each.mean()), "magnitude": _magnitude(a, b), "finite": 1.0}
    if not is_noise:
        measured["cosine_worst"] = float(each.min())
    return measured


def rows_of(output: str, array: Array) -> NDArray[np.float64]:
    """Return an output as one row of values for each place.

    A map BxCxHxW has a row of C values for each position, masks BxMxHxW a row for each mask, and
    anything else one for each of its last axis. Rows of few values are joined to one.
    """
    values = array.astype(np.float64)
    if values.ndim == 4 and output == MASKS:
        rows = values.reshape(-1, values.shape[2] * values.shape[3])
    elif values.ndim == 4:
        rows = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    else:
        rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    return rows if rows.shape[1] >= FEWEST else rows.reshape(1, -1)


def _place_cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each place; rows that are faint in both have none and count as equal."""
    if not a.size:
        return np.ones(1)
    lengths = [np.linalg.norm(rows, axis=1) for rows in (a, b)]
    faint = np.maximum(*lengths) <= FAINT * float(np.sqrt(np.mean(lengths[0] ** 2)))
    return np.where(faint, 1.0, cosines(a, b))


def _magnitude(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the shorter length by the longer one, of all values together."""
    shorter, longer = sorted((float(np.linalg.norm(a)), float(np.linalg.norm(b))))
    return shorter / longer if longer else 1.0


def measure_masks(expected: Array, found: Array, scores: Array) -> Found:
    """Compare the masks of P prompts, PxMxHxW logits: of each the one that FP32 scores highest.

    `scores`: PxM. Small masks, and those whose contour depends on the last bit, are left out; none
    left gives no measure.
    """
    best = np.argmax(scores, axis=1)
    overlaps = []
    for prompt, mask in enumerate(best):
        logits, others = (np.asarray(a[prompt, mask], np.float32) for a in (expected, found))
        if _is_sure(logits):
            overlaps.append(mask_iou(logits > 0, others > 0))
    if not overlaps:
        return {}
    return {"mask_iou": float(np.mean(overlaps)), "mask_iou_worst": min(overlaps)}


def _is_sure(logits: NDArray[np.float32]) -> bool:
    """Whether a mask is large enough, and little larger at a lower threshold than at a higher."""
    outer = np.count_nonzero(logits > -OFFSET)
    inner = np.count_nonzero(logits > OFFSET)
    return bool(inner >= MIN_AREA and inner / outer >= STABLE)
