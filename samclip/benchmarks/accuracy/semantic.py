"""How well every pixel is named: mIoU of label maps, beside two baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.data.label_maps import IGNORED, LabelledPhoto
from samclip.benchmarks.progress import Track, silent
from samclip.benchmarks.rows import Row, make_row
from samclip.benchmarks.statistics import class_ious, mean_iou
from samclip.runtime.model import Model
from samclip.runtime.texts.vocabulary import Vocabulary

MIOU, PIXELS = "mIoU", "labelled pixels"
PROTOCOL = (
    "Every pixel gets one of the data set's class names; pixels without truth (void, or of no "
    "object) do not count, whatever the answer there: there is no class for background.",
    "IoU per class over all photos together, in pixels of the original photo, then averaged over "
    "the classes that occur in the truth.",
    "coarse: from the CLIP head's tokens, upscaled; refined: borders drawn by SAM's decoder.",
    "one class everywhere: the best that an answer with a single class can get, found with the "
    "truth at hand.",
    "Of a COCO folder the instances are painted, larger ones first; crowds are left out.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %; for a single class the class "
    "stays the one that is best on all photos.",
)


@dataclass(frozen=True)
class Labeller:
    """A model, the data set's names in its text space, and whether it refines its borders."""

    model: Model
    vocabulary: Vocabulary
    refine: bool = False


def evaluate_semantic(
    labellers: Mapping[str, Labeller],
    photos: Sequence[LabelledPhoto],
    names: Sequence[str],
    track: Track = silent,
) -> list[Row]:
    """Label every photo by each of `labellers`, and by the best single one of the K `names`.

    Labellers that share a model share its encoder pass. Raises ImageError, InputError,
    EngineRunError.
    """
    tallies: dict[str, list[NDArray[np.int64]]] = {name: [] for name in labellers}
    truths = []
    for photo in track(photos, "semantic"):
        truth = photo.labels()
        truths.append(np.bincount(truth[truth != IGNORED], minlength=len(names)))
        for name, answer in _answers(labellers, photo):
            tallies[name].append(tally(answer, truth, len(names)))
    rows = [row for name, found in tallies.items() for row in _rows(name, np.stack(found), names)]
    constant, tally_of_constant = _best_single_class(np.stack(truths))
    label = f"{names[constant]!r} everywhere"
    return [*rows, make_row(label, MIOU, PIXELS, mean_iou(tally_of_constant))]


def tally(
    answer: NDArray[np.integer], truth: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count pixels of two HxW maps class by class: 3xK, in both, in the truth, in the answer.

    Pixels whose truth is IGNORED do not count; an answer of -1 is none of the classes.
    """
    known = truth != IGNORED
    expected, got = truth[known], answer[known]
    counted = (expected[got == expected], expected, got[got >= 0])
    return np.stack([np.bincount(labels, minlength=classes) for labels in counted])


def _answers(
    labellers: Mapping[str, Labeller], photo: LabelledPhoto
) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Label a photo, with one encoder pass for each different model."""
    image = photo.pixels()
    for model in dict.fromkeys(labeller.model for labeller in labellers.values()):
        with model.encode(image) as scene:
            for name, labeller in labellers.items():
                if labeller.model is model:
                    answer = scene.semantic(labeller.vocabulary, refine=labeller.refine)
                    yield name, answer.labels


def _rows(name: str, tallies: NDArray[np.int64], names: Sequence[str]) -> Iterator[Row]:
    """Give the mIoU of Px3xK tallies, and as details the IoU of each class in the truth."""
    yield make_row(name, MIOU, PIXELS, mean_iou(tallies))
    present = ~np.isnan(class_ious(tallies.sum(axis=0)))
    for index in np.flatnonzero(present).tolist():
        estimate = mean_iou(tallies[:, :, [index]])
        yield make_row(name, "IoU", names[index], estimate, detail=True)


def _best_single_class(truths: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Find the class that, answered everywhere, gets the highest mIoU; and its tallies Px3xK.

    `truths`: PxK pixels. Only that class has an IoU above 0, its share of all pixels, so the
    most frequent class is the best.
    """
    best = int(truths.sum(axis=0).argmax())
    tallies = np.stack([np.zeros_like(truths), truths, np.zeros_like(truths)], axis=1)
    tallies[:, 0, best] = truths[:, best]
    tallies[:, 2, best] = truths.sum(axis=1)
    return best, tallies
