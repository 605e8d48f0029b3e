"""The gates: reduced precision against FP32 on the tasks, on held-back photos, or no bundle.

No ground truth is needed: FP32 is the truth. The whole chain is judged, from the photo to masks
and names, because an error that looks small in an embedding may cost an object. A judgement has a
row for each measure of agreement with FP32 over all photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from samclip.engines.agreement import COSINE, MASK_IOU, WORST_MASK_IOU, mask_iou, mean_cosine
from samclip.errors import EngineRunError, GateError
from samclip.export.precision.gate_tasks import (
    Answers,
    Questions,
    answer,
    ask,
    gate_vocabulary,
    unnameable,
)
from samclip.progress import Progress, track
from samclip.runtime.bundles.manifest import GateMeasure, GateRow, ReducedPrecision
from samclip.runtime.model import Model

_COSINES: tuple[GateMeasure, ...] = (
    "image_embeddings_cosine",
    "image_embed_cosine",
    "patch_embeds_cosine",
    "region_names_cosine",
    "text_cosine",
)

NO_MASKS = "masks are not judged: FP32 finds no object on these photos, nor any stable mask"


def _limits(precision: ReducedPrecision, **others: float) -> dict[str, float]:
    limits: dict[str, float] = dict.fromkeys(_COSINES, COSINE[precision])
    limits["mask_iou_mean"] = MASK_IOU[precision]
    if precision in WORST_MASK_IOU:
        limits["mask_iou_worst"] = WORST_MASK_IOU[precision]
    return {**limits, **others}


LIMITS: dict[ReducedPrecision, dict[str, float]] = {
    "fp16": _limits("fp16", semantic_agreement=0.995),
    "bf16": _limits("bf16", semantic_agreement=0.98),
    "int8": _limits("int8", semantic_agreement=0.98, top1_agreement=0.97),
    "int8_fp16": _limits("int8_fp16", semantic_agreement=0.98, top1_agreement=0.97),
}

_HALF_REMEDY = (
    "Keep more in FP32, as in --keep-fp32 clip_head or --keep-fp32 encoder:Softmax, give photos "
    "like those of your task (--calib, --photos), or leave this precision out."
)
_INT8_REMEDY = (
    "Calibrate on more photos, and on photos like those of your task (--calib), try "
    "--calib-method percentile or entropy, or --smooth 0.5, keep graphs or nodes from INT8 with "
    "--keep-fp32 clip_head, or leave this precision out."
)


@dataclass(frozen=True)
class Judgement:
    """The cost of a precision: a row for each measure; `skipped` says which ones are missing."""

    precision: ReducedPrecision
    photos: int
    rows: tuple[GateRow, ...]
    skipped: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[GateRow, ...]:
        """The rows below their limits."""
        return tuple(row for row in self.rows if not row.passed)

    def joined(self, other: Judgement, attention: str) -> Judgement:
        """Return this judgement with the rows of another one, marked with its lowering."""
        marked = tuple(replace(row, attention=attention) for row in other.rows)
        return Judgement(self.precision, self.photos, (*self.rows, *marked), self.skipped)


class Gate:
    """FP32's answers on the gates' photos, computed once, and the comparison with them."""

    def __init__(self, reference: Model, photos: Sequence[Path], progress: Progress) -> None:
        """Compute the answers of `reference`, an FP32 model, which may be closed afterwards."""
        self._photos = tuple(photos)
        self._progress = progress
        self._skipped = unnameable(reference.manifest)
        self._texts = gate_vocabulary(reference)
        self._questions: list[Questions] = []
        self._expected: list[Answers] = []
        for photo in track(progress, self._photos, "gates: FP32 on the photos held back"):
            questions, expected = ask(reference, photo, self._texts)
            self._questions.append(questions)
            self._expected.append(expected)

    def judge(self, model: Model, precision: ReducedPrecision) -> Judgement:
        """Let a model in `precision` answer the same questions, and compare its answers.

        The model may run here or on the device that it is for. Raises GateError when an output is
        not finite: then there is no answer to compare.
        """
        texts = gate_vocabulary(model)
        found = []
        stage = f"gates: {precision} on the photos held back"
        with self._progress.stage(stage, len(self._photos)) as judging:
            for photo, questions in zip(self._photos, self._questions, strict=True):
                try:
                    found.append(answer(model, photo, questions, texts))
                except EngineRunError as error:
                    raise GateError(
                        f"{precision} gives no answer on {photo.name}: {error} No bundle was "
                        "written. Keep the parts that overflow in FP32 by --keep-fp32."
                    ) from error
                judging.advance()
        measured = agreements(self._questions, self._expected, found)
        if self._texts is not None and texts is not None:
            expected, embeddings = self._texts.embeddings, texts.embeddings
            if not np.array_equal(expected, embeddings):  # else the text encoder is FP32's
                measured.append(text_agreement(expected, embeddings))
        rows = tuple(row_of(agreement, precision) for agreement in measured)
        has_masks = any(len(q.boxes) + len(q.points) for q in self._questions)
        reasons = (None if has_masks else NO_MASKS, self._skipped)
        skipped = tuple(reason for reason in reasons if reason)
        return Judgement(precision, len(self._photos), rows, skipped)


def row_of(agreement: Agreement, precision: ReducedPrecision) -> GateRow:
    """Return a measure with its limit."""
    return GateRow(
        measure=agreement.measure,
        value=agreement.value,
        limit=LIMITS[precision].get(agreement.measure),
        samples=agreement.samples,
    )


def enforce_gates(judgements: Sequence[Judgement]) -> None:
    """Raise GateError naming every row below its limit, and what to do."""
    failed = [(judgement, row) for judgement in judgements for row in judgement.failed]
    if not failed:
        return
    lines = []
    for judgement, row in failed:
        form = f" ({row.attention} attention)" if row.attention else ""
        lines.append(
            f"  {judgement.precision}{form} {row.measure}: {row.value:.4f}, "
            f"at least {row.limit:g} is asked for "
            f"({row.samples:,} samples, {judgement.photos} photos)\n"
        )
    quantised = any(judgement.precision.startswith("int8") for judgement, _ in failed)
    raise GateError(
        f"reduced precision costs too much:\n{''.join(lines)}No bundle was written. "
        f"{_INT8_REMEDY if quantised else _HALF_REMEDY}"
    )


@dataclass(frozen=True)
class Agreement:
    """One measure over all photos: its value, 1 for complete agreement, and its samples' number."""

    measure: GateMeasure
    value: float
    samples: int


def agreements(
    questions: Sequence[Questions], expected: Sequence[Answers], found: Sequence[Answers]
) -> list[Agreement]:
    """Measure the agreement of all answers that both models give; all sequences are by photo.

    A cosine is a photo's mean over places, and the worst photo counts. Masks are compared pixel by
    pixel in the photo; of the masks that a point gets, the one that FP32 scores highest counts.
    """
    pairs = list(zip(expected, found, strict=True))
    embeddings = [mean_cosine(a.image_embeddings, b.image_embeddings) for a, b in pairs]
    rows = [Agreement("image_embeddings_cosine", min(embeddings), len(pairs))]
    for measure, field in (
        ("image_embed_cosine", "image_embed"),
        ("patch_embeds_cosine", "patch_embeds"),
        ("region_names_cosine", "opinions"),
    ):
        both = [(getattr(a, field), getattr(b, field)) for a, b in pairs]
        known = [mean_cosine(a, b) for a, b in both if a is not None and b is not None]
        if known:
            rows.append(Agreement(measure, min(known), len(known)))  # type: ignore[arg-type]
    overlaps = np.concatenate(
        [mask_ious(q, a, b) for q, (a, b) in zip(questions, pairs, strict=True)]
    )
    if len(overlaps):
        rows.append(Agreement("mask_iou_mean", float(overlaps.mean()), len(overlaps)))
        rows.append(Agreement("mask_iou_worst", float(overlaps.min()), len(overlaps)))
    return rows + name_agreements(pairs)


def text_agreement(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Compare embeddings of texts, NxD: the cosine of the worst text."""
    worst = min(mean_cosine(a[None], b[None]) for a, b in zip(expected, found, strict=True))
    return Agreement("text_cosine", worst, len(expected))


def mask_ious(questions: Questions, expected: Answers, found: Answers) -> NDArray[np.float64]:
    """Return the IoU of each box's mask, then of each point's: the one FP32 scores highest."""
    boxes = len(questions.boxes)
    offered = expected.scores[boxes:].reshape(-1, questions.per_point)  # PxM
    firsts = boxes + questions.per_point * np.arange(len(offered))
    rows = np.concatenate([np.arange(boxes), firsts + offered.argmax(axis=1)])
    return np.asarray([mask_iou(expected.masks.unpack(r), found.masks.unpack(r)) for r in rows])


def name_agreements(pairs: Sequence[tuple[Answers, Answers]]) -> list[Agreement]:
    """Measure the share of pixels, and of photos and objects, that get the same name."""
    rows: list[Agreement] = []
    for measure, field in (("semantic_agreement", "labels"), ("top1_agreement", "names")):
        both = [(getattr(a, field), getattr(b, field)) for a, b in pairs]
        same = [(a == b).reshape(-1) for a, b in both if a is not None and b is not None]
        if same:
            count = sum(len(part) for part in same)
            share = sum(int(part.sum()) for part in same) / count
            rows.append(Agreement(measure, share, count))  # type: ignore[arg-type]
    return rows
