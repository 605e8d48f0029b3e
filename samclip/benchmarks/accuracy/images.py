"""How well whole images are named: top-1 and top-5 over all classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.baselines.encoders import ImageEncoder
from samclip.benchmarks.candidates import Scores, compare
from samclip.benchmarks.data.image_folder import ClassPhoto
from samclip.benchmarks.progress import Track, silent
from samclip.benchmarks.rows import Row
from samclip.benchmarks.subsets import PHOTOS
from samclip.runtime.pixels.image import load_image
from samclip.runtime.text.vocabulary import Vocabulary

TOPS = (1, 5)
IMAGES_PROTOCOL = (
    "Every photo is encoded once, whole; its embedding is compared with the names of all classes "
    "of the list, not only of those that have photos.",
    "by classes: a classifier's own scores for the same classes, without names.",
    "Of equal scores the class that comes first in the list's order counts as higher.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


class Classifier(Protocol):
    """Scores a fixed list of classes."""

    def score_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Score N images, HWC uint8 RGB of any sizes: NxK, higher is likelier."""
        ...


def evaluate_images(
    photos: Sequence[ClassPhoto],
    vocabulary: Vocabulary,
    encoders: Mapping[str, ImageEncoder],
    classifiers: Mapping[str, Classifier],
    track: Track = silent,
) -> list[Row]:
    """Name photos by `encoders` through `vocabulary`, and by `classifiers` of the same K classes.

    The first of `encoders` is divided by each of the others, and by the classifiers. Raises
    ImageError, InputError, EngineRunError.
    """
    scores = Scores()
    for number, photo in enumerate(track(photos, "images")):
        image = load_image(photo.path)
        scores.photos.append(number)
        answers = {
            name: vocabulary.cosines(encoder.embed_images([image]))
            for name, encoder in encoders.items()
        }
        answers |= {name: other.score_images([image]) for name, other in classifiers.items()}
        for name, (row,) in answers.items():
            place = rank(row, photo.category)
            for top in TOPS:
                scores.add(name, f"image top-{top}", [place < top])
    return list(compare(scores, {PHOTOS: np.ones(len(photos), np.bool_)}))


def rank(scores: NDArray[np.floating], truth: int) -> int:
    """Count the classes before the true one in K scores, highest first; 0 is best."""
    higher = np.count_nonzero(scores > scores[truth])
    return int(higher + np.count_nonzero(scores[:truth] == scores[truth]))
