"""Accuracy of names: top-1 of categories on objects, and top-1 and top-5 of classes on images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.baselines import ImageEncoder, check_margin, cut
from samclip.benchmarks.data.coco import CocoObject, CocoPhoto
from samclip.benchmarks.data.image_folder import ClassPhoto
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.scores import PHOTOS, Candidate, Scores, Subsets, compare, of_objects
from samclip.benchmarks.statistics import calibration_error
from samclip.progress import SILENT, Progress, track
from samclip.runtime.pixels.image import load_image
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import Vocabulary

MASKS_AT_ONCE = 64  # bounds the masks that are held
TOP1 = "name top-1"
CALIBRATION = "calibration error of shares"
ONE_PASS, ON_CROPS = "in one pass", "on crops"
CALIBRATED = (
    "calibration error: the mean gap between the share of the answer and how often such answers "
    "are right, over 15 bins (Guo et al., arXiv 1706.04599)."
)
PROTOCOL = (
    "in one pass: the photo is encoded once; patch embeddings are averaged inside "
    "the object's true mask, weighted by area, and the name of the highest cosine is the answer. A "
    "bundle that names boxes takes the box around the true mask.",
    "on crops: the object's box, with its margin, is cut out and encoded by itself; the "
    "whole crop's embedding is compared with the names.",
    CALIBRATED,
    "All names of the data set compete for every object. Crowds are left out. Areas are pixels of "
    "the object's mask in the original photo.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)
TOPS = (1, 5)
IMAGE_TOP = "image top-{}"
IMAGES_PROTOCOL = (
    "Every photo is encoded once, whole; its embedding is compared with the names of all classes "
    "of the list, not only of those that have photos.",
    CALIBRATED,
    "by classes: a classifier's own scores for the same classes, without names.",
    "Of equal scores the class that comes first in the list's order counts as higher.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


@dataclass(frozen=True, eq=False)
class ImageNamer:
    """An encoder of images, and K classes in its text space.

    `confidence`: the factor on the logit scale that its answers about images have.
    """

    encoder: ImageEncoder
    vocabulary: Vocabulary
    confidence: float = 1.0

    def cosines(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Compare N images, HWC uint8 RGB of any sizes, with the classes: NxK."""
        return self.vocabulary.cosines(self.encoder.embed_images(images))


def evaluate_names(
    candidate: Candidate,
    photos: Sequence[CocoPhoto],
    vocabulary: Vocabulary,
    croppers: Mapping[str, ImageNamer],
    *,
    against: Mapping[str, Vocabulary] = MappingProxyType({}),
    margin: float = 0.0,
    apart: str | None = "person",
    progress: Progress = SILENT,
) -> list[Row]:
    """Name every object from the one pass of `candidate`, and by each of `croppers` on its crop.

    `vocabulary`: the data set's categories, in its order, in the candidate's text space, as each of
    `croppers` has them in its own; `against`: the same categories asked for in other ways, of the
    one pass, by what rows call them.
    `margin`: of the crops, see `cut`. `apart`: the class that figures are also given without; it
    is ignored if there is none. Raises ImageError, InputError, EngineRunError.
    """
    check_margin(margin)
    scores = Scores()
    shares: dict[str, list[float]] = {}
    objects: list[CocoObject] = []
    for number, photo in enumerate(track(progress, photos, "names")):
        image = photo.pixels()
        truth = np.asarray([found.category for found in photo.objects])
        scores.photos += [number] * len(truth)
        objects += photo.objects
        with candidate.model.encode(image) as scene:
            for label, asked in {ONE_PASS: vocabulary, **against}.items():
                answers, sure = name_objects(scene, photo, asked)
                name = f"{candidate.name} {label}"
                scores.add(name, TOP1, answers == truth)
                shares.setdefault(name, []).extend(sure)
        crops = [cut(image, found.box, margin) for found in photo.objects]
        for name, cropper in croppers.items():
            scores.add(name, TOP1, cropper.cosines(crops).argmax(axis=1) == truth)
    parts = of_objects(objects, vocabulary.names, apart)
    return [*compare(scores, parts), *_calibrations(scores, TOP1, shares, parts)]


def _calibrations(
    scores: Scores, top1: str, shares: Mapping[str, Sequence[float]], parts: Subsets
) -> Iterator[Row]:
    """Yield how far the shares of each model's answers are from their accuracy, part by part.

    `top1`: the measure that says which answers are right.
    """
    photos = np.asarray(scores.photos)
    for part, chosen in parts.items():
        for name, sure in shares.items():
            if chosen.any():
                correct = np.asarray(scores.values[name, top1])[chosen]
                error = calibration_error(np.asarray(sure)[chosen], correct, photos[chosen])
                yield make_row(name, CALIBRATION, part, error)


def name_objects(
    scene: Scene, photo: CocoPhoto, vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Name the objects of a photo by their true masks: N indices of names, and N shares."""
    parts, shares = [], []
    for start in range(0, len(photo.objects), MASKS_AT_ONCE):
        objects = photo.objects[start : start + MASKS_AT_ONCE]
        named = scene.name(np.stack([found.mask() for found in objects]), vocabulary)
        parts.append(np.asarray(named.class_ids))
        shares.append(np.asarray(named.name_probabilities))
    return np.concatenate(parts), np.concatenate(shares)


class Classifier(Protocol):
    """Scores a fixed list of classes."""

    def score_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Score N images, HWC uint8 RGB of any sizes: NxK, higher is likelier."""
        ...


def evaluate_images(
    photos: Sequence[ClassPhoto],
    namers: Mapping[str, ImageNamer],
    classifiers: Mapping[str, Classifier],
    progress: Progress = SILENT,
    *,
    against: Mapping[str, Vocabulary] = MappingProxyType({}),
) -> list[Row]:
    """Name photos by `namers`, and by `classifiers`, all of the same K classes.

    The first of `namers` is divided by each of the others, by the classifiers, and by its own
    answers to `against`: the same classes asked for in other ways, by what rows call them. The
    calibration of its shares is measured, as users see them. Raises ImageError, InputError,
    EngineRunError.
    """
    first, *_ = namers
    ways = {first: namers[first].vocabulary}
    ways |= {f"{first} {label}": asked for label, asked in against.items()}
    others = {name: namer for name, namer in namers.items() if name != first}
    scores = Scores()
    shares: dict[str, list[float]] = {name: [] for name in ways}
    sure = np.full(1, namers[first].confidence, np.float32)
    for number, photo in enumerate(track(progress, photos, "images")):
        image = load_image(photo.path)
        scores.photos.append(number)
        embedded = namers[first].encoder.embed_images([image])
        answers = {name: asked.cosines(embedded) for name, asked in ways.items()}
        for name, asked in ways.items():
            shares[name].append(float(asked.probabilities(answers[name], sure).max()))
        answers |= {name: other.cosines([image]) for name, other in others.items()}
        answers |= {name: other.score_images([image]) for name, other in classifiers.items()}
        for name, (row,) in answers.items():
            place = rank(row, photo.category)
            for top in TOPS:
                scores.add(name, IMAGE_TOP.format(top), [place < top])
    parts = {PHOTOS: np.ones(len(photos), np.bool_)}
    return [*compare(scores, parts), *_calibrations(scores, IMAGE_TOP.format(1), shares, parts)]


def rank(scores: NDArray[np.floating], truth: int) -> int:
    """Count the classes before the true one in K scores, highest first; 0 is best."""
    higher = np.count_nonzero(scores > scores[truth])
    return int(higher + np.count_nonzero(scores[:truth] == scores[truth]))
