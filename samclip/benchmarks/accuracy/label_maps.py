"""mIoU of label maps, compared with the best map of a single class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.class_names import AskedClasses
from samclip.benchmarks.data.label_folder import IGNORED, LabelledPhoto
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import class_ious, mean_iou
from samclip.errors import InputError
from samclip.progress import SILENT, Progress, track
from samclip.runtime.model import Model
from samclip.runtime.results.classification import SemanticMap
from samclip.runtime.scene import Scene

MIOU, PIXELS = "mIoU", "labelled pixels"
PROTOCOL = (
    "Every pixel gets one of the data set's classes; pixels without truth (void, or of no "
    "object) do not count, whatever the answer there.",
    "Of a class with several texts the one that fits best speaks for it, pixel by pixel.",
    "with background: the class background counts as every other; it is the answer where one of "
    "its texts fits best or, with a threshold, where the best text's probability is below it.",
    "without background: pixels whose truth is background do not count, and no text of it is asked "
    "for.",
    "IoU per class over all photos together, in pixels of the original photo, then averaged over "
    "the classes that occur in the truth.",
    "coarse: from the CLIP head's tokens, upscaled; refined: borders drawn by SAM's decoder; "
    "denoised: without the names whose probability is below the number everywhere in the photo, "
    "and by tokens averaged where SAM's embedding is alike, as Scene.semantic does.",
    "one class everywhere: the best that an answer with a single class can get, found with the "
    "truth.",
    "Of a COCO folder the instances are painted, larger ones first; crowds are left out.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %; for a single class the class "
    "stays the one that is best on all photos.",
)


@dataclass(frozen=True)
class Part:
    """The pixels that count, and the meaning of an answer of no text; `name` is what rows call it.

    `ignored`: the class whose pixels do not count. `fallback`: the class of pixels whose best
    text has a probability below `threshold`, in [0, 1].
    """

    name: str = PIXELS
    ignored: int | None = None
    fallback: int | None = None
    threshold: float | None = None

    def truth(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Mark as IGNORED, in HxW classes, the pixels that do not count."""
        if self.ignored is None:
            return labels
        return np.where(labels == self.ignored, np.int32(IGNORED), labels)


@dataclass(frozen=True, eq=False)
class Labeller:
    """A model, the texts that it is asked for, for which part, and how.

    `refine` and `denoise` are those of `Scene.semantic`.
    """

    name: str
    model: Model
    asked: AskedClasses
    part: Part = Part()
    refine: bool = False
    denoise: float | None = None

    def label(self, scene: Scene) -> NDArray[np.int64]:
        """Label the photo of a scene: HxW classes, -1 for none."""
        answer: SemanticMap = scene.semantic(
            self.asked.vocabulary,
            refine=self.refine,
            background=self.part.threshold,
            denoise=self.denoise,
        )
        none = -1 if self.part.fallback is None else self.part.fallback
        by_text = np.append(self.asked.classes, none)  # T + 1: the label -1 means the last
        return np.asarray(by_text[answer.labels])


def evaluate_semantic(
    labellers: Sequence[Labeller],
    photos: Sequence[LabelledPhoto],
    names: Sequence[str],
    progress: Progress = SILENT,
) -> list[Row]:
    """Label every photo by each of `labellers`, and by the best single one of the K `names`.

    Labellers that share a model share its encoder pass. Raises ImageError, InputError,
    EngineRunError.
    """
    parts = tuple(dict.fromkeys(labeller.part for labeller in labellers))
    tallies: list[list[NDArray[np.int64]]] = [[] for _ in labellers]
    pixels: dict[Part, list[NDArray[np.int64]]] = {part: [] for part in parts}
    for photo in track(progress, photos, "semantic"):
        labels = photo.labels()
        truths = {part: part.truth(labels) for part in parts}
        for part, truth in truths.items():
            pixels[part].append(np.bincount(truth[truth != IGNORED], minlength=len(names)))
        for place, answer in _answers(labellers, photo):
            truth = truths[labellers[place].part]
            _check_size(photo, answer, truth)
            tallies[place].append(tally(answer, truth, len(names)))
    rows: list[Row] = []
    for labeller, found in zip(labellers, tallies, strict=True):
        rows += _rows(labeller, np.stack(found), names)
    for part, counts in pixels.items():
        rows.append(_row_of_constant(part, np.stack(counts), names))
    return rows


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
    labellers: Sequence[Labeller], photo: LabelledPhoto
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Label a photo by each labeller, with one encoder pass for each different model."""
    image = photo.pixels()
    for model in dict.fromkeys(labeller.model for labeller in labellers):
        with model.encode(image) as scene:
            for place, labeller in enumerate(labellers):
                if labeller.model is model:
                    yield place, labeller.label(scene)


def _check_size(photo: LabelledPhoto, answer: NDArray[np.int64], truth: NDArray[np.int32]) -> None:
    if answer.shape != truth.shape:
        raise InputError(
            f"{photo.path} has (h, w) = {answer.shape} pixels, its labels {truth.shape}. Use the "
            "photos that the labels were made for."
        )


def _rows(labeller: Labeller, tallies: NDArray[np.int64], names: Sequence[str]) -> Iterator[Row]:
    """Return the mIoU of Px3xK tallies, and as details the IoU of each class in the truth."""
    part = labeller.part
    yield make_row(labeller.name, MIOU, part.name, mean_iou(tallies))
    present = ~np.isnan(class_ious(tallies.sum(axis=0)))
    where = "" if part.name == PIXELS else f", {part.name}"
    for index in np.flatnonzero(present).tolist():
        estimate = mean_iou(tallies[:, :, [index]])
        yield make_row(labeller.name, "IoU", f"{names[index]}{where}", estimate, detail=True)


def _row_of_constant(part: Part, truths: NDArray[np.int64], names: Sequence[str]) -> Row:
    """Return the row of the class that, answered everywhere, gets the highest mIoU.

    `truths`: PxK pixels. Only that class has an IoU above 0, its share of all pixels, so the
    most frequent class is the best.
    """
    best = int(truths.sum(axis=0).argmax())
    tallies = np.stack([np.zeros_like(truths), truths, np.zeros_like(truths)], axis=1)
    tallies[:, 0, best] = truths[:, best]
    tallies[:, 2, best] = truths.sum(axis=1)
    return make_row(f"{names[best]!r} everywhere", MIOU, part.name, mean_iou(tallies))
