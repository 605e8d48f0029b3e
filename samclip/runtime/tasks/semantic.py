"""Open-vocabulary semantic segmentation: a name for every pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samclip.errors import VocabularyError
from samclip.runtime.features import Features
from samclip.runtime.results.answers import SemanticMap
from samclip.runtime.tasks.coarse import CoarseMap
from samclip.runtime.tasks.refine import refine_labels
from samclip.runtime.texts.vocabulary import Vocabulary


def semantic(
    features: Features,
    vocabulary: Vocabulary,
    image: NDArray[np.uint8],
    *,
    refine: bool = False,
    background: float | None = None,
) -> SemanticMap:
    """Label every pixel with the name whose upscaled cosine is highest; see `CoarseMap`.

    `refine`: let SAM's decoder draw the borders, see `refine_labels`. `background`: pixels
    whose probability is below this number in [0, 1] get label -1; None labels all. The papers
    treat background by data set; a threshold is our choice. Raises VocabularyError for a
    background out of range, ClosedError, EngineRunError.
    """
    is_number = isinstance(background, int | float | np.integer | np.floating)
    if background is not None and not (is_number and 0 <= background <= 1):
        raise VocabularyError(f"background must be a number in [0, 1] or None; got {background!r}.")
    coarse = CoarseMap(features, vocabulary)
    labels = coarse.argmax()
    if refine:
        labels = refine_labels(features, coarse, labels)
    scores = coarse.scores(labels)
    if background is not None:
        labels[scores < background] = -1
    return SemanticMap(
        labels=labels,
        names=vocabulary.names,
        scores=scores,
        refined=refine,
        trained_head=vocabulary.trained_head,
        image=image,
    )
