"""Masks with names from boxes: the merged model beside SAM and a second model, right and fast."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.accuracy.outcomes import iou
from samclip.benchmarks.candidates import Scores, compare
from samclip.benchmarks.data.coco import CocoObject, CocoPhoto
from samclip.benchmarks.progress import Track, silent
from samclip.benchmarks.rows import Row, make_row
from samclip.benchmarks.statistics import median, median_ratio
from samclip.benchmarks.subsets import PHOTOS, of_objects
from samclip.runtime.results.masks import Masks
from samclip.runtime.texts.vocabulary import Vocabulary

MASK, TOP1, SECONDS = "box mIoU", "name top-1", "seconds a photo"
PROTOCOL = (
    "All objects of a photo are asked for at once, by the boxes of their annotations; the "
    "answers are masks with names.",
    "crop-image: SAM's masks; the box around each is cut out and encoded by the second model.",
    "crop-feature: SAM's masks; one more pass, of the second model over the whole photo, whose "
    "features are averaged inside each mask by the rule of the merged model.",
    "seconds: the median over photos of encoding, masks and names together, from decoded pixels "
    "to the answer; names are embedded and models loaded before. The first photo is answered once "
    "more before, untimed. Models take turns photo by photo, in rotating order. "
    "Bundles run in their backend, a teacher in torch.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


class EncodedPhoto(Protocol):
    """What `samclip.Scene` and the baselines' scenes have in common here."""

    def segment(self, *, boxes: Any, names: Vocabulary) -> Masks:
        """Answer boxes with masks that carry names."""
        ...

    def close(self) -> None:
        """Let go of what was encoded."""
        ...


class Encoder(Protocol):
    """What turns photos into scenes: `samclip.Model`, or a baseline."""

    def encode(self, image: Any) -> EncodedPhoto:
        """Encode a photo, HWC uint8 RGB."""
        ...


@dataclass(frozen=True)
class Contender:
    """A model, and the data set's categories in its text space, in the data set's order."""

    model: Encoder
    vocabulary: Vocabulary


def evaluate_baselines(
    contenders: Mapping[str, Contender],
    photos: Sequence[CocoPhoto],
    names: Sequence[str],
    *,
    apart: str | None = "person",
    track: Track = silent,
) -> list[Row]:
    """Measure masks, names and seconds of all `contenders`; divide the first by each other.

    `names`: the data set's categories. `apart`: the one that names are also counted without, if
    there is one. Raises ImageError, InputError, EngineRunError.
    """
    fits, hits = Scores(), Scores()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    objects: list[CocoObject] = []
    for number, photo in enumerate(track(photos, "baselines")):
        image = photo.pixels()
        objects += photo.objects
        fits.photos += [number] * len(photo.objects)
        if number == 0:
            for contender in contenders.values():
                _answer(contender, image, photo)
        for name in _turns(tuple(contenders), number):
            masks, took = _answer(contenders[name], image, photo)
            seconds[name].append(took)
            truth = (found.mask() for found in photo.objects)
            fits.add(name, MASK, list(map(iou, masks.packed, truth)))
            right = np.asarray([found.category for found in photo.objects]) == masks.class_ids
            hits.add(name, TOP1, right)
    hits.photos = fits.photos
    named = of_objects(objects, names, apart)
    return [*compare(fits, of_objects(objects)), *compare(hits, named), *_speed(seconds)]


def _answer(
    contender: Contender, image: NDArray[np.uint8], photo: CocoPhoto
) -> tuple[Masks, float]:
    """Ask for all objects of a photo by their boxes; returns the answer and the seconds it took."""
    boxes = [found.box for found in photo.objects]
    start = time.perf_counter()
    scene = contender.model.encode(image)
    masks = scene.segment(boxes=boxes, names=contender.vocabulary)
    took = time.perf_counter() - start
    scene.close()
    return masks, took


def _turns(names: Sequence[str], number: int) -> Sequence[str]:
    """Let another model begin on each photo, so that none always finds warm or cold caches."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _speed(seconds: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    for name, took in seconds.items():
        yield make_row(name, SECONDS, PHOTOS, median(took), "seconds")
    first, *others = seconds
    for other in others:
        estimate = median_ratio(seconds[first], seconds[other])
        yield make_row(f"{first} / {other}", SECONDS, PHOTOS, estimate, "ratio")
