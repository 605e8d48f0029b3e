"""How far a model's answers agree with FP32's, over all photos: the numbers that gates judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.export.precision.answers import Answers
from samclip.export.precision.questions import Questions
from samclip.runtime.bundles.manifest import GateMeasure

WORST_COSINE = -1.0


@dataclass(frozen=True)
class Agreement:
    """One measure over all photos: its value, 1 for complete agreement, and how many samples."""

    measure: GateMeasure
    value: float
    samples: int


def agreements(
    questions: Sequence[Questions], expected: Sequence[Answers], found: Sequence[Answers]
) -> list[Agreement]:
    """Measure what there is to measure; the sequences hold a photo each, in one order.

    Cosines are a photo's mean over places, and of the photos the worst. Masks are compared pixel
    by pixel in the photo; of the masks that a point offers, the one counts that FP32 thinks best.
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
    return rows + _shares(pairs)


def text_agreement(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Agreement:
    """Compare embeddings of texts, NxD: the cosine of the worst text."""
    worst = min(mean_cosine(a[None], b[None]) for a, b in zip(expected, found, strict=True))
    return Agreement("text_cosine", worst, len(expected))


def mask_ious(questions: Questions, expected: Answers, found: Answers) -> NDArray[np.float64]:
    """Give the IoU of each box's mask, then of each point's: the one that FP32 scores highest."""
    boxes = len(questions.boxes)
    offered = expected.scores[boxes:].reshape(-1, questions.per_point)  # PxM
    firsts = boxes + questions.per_point * np.arange(len(offered))
    rows = np.concatenate([np.arange(boxes), firsts + offered.argmax(axis=1)])
    return np.asarray([_iou(expected.masks.unpack(r), found.masks.unpack(r)) for r in rows])


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def _shares(pairs: Sequence[tuple[Answers, Answers]]) -> list[Agreement]:
    """Count pixels, and photos and objects, that get the same name."""
    rows: list[Agreement] = []
    for measure, field in (("semantic_agreement", "labels"), ("top1_agreement", "names")):
        both = [(getattr(a, field), getattr(b, field)) for a, b in pairs]
        same = [(a == b).reshape(-1) for a, b in both if a is not None and b is not None]
        if same:
            count = sum(len(part) for part in same)
            share = sum(int(part.sum()) for part in same) / count
            rows.append(Agreement(measure, share, count))  # type: ignore[arg-type]
    return rows


def mean_cosine(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Average the cosine of the rows of two NxD arrays; what is not finite is opposite."""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return WORST_COSINE
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).mean())
