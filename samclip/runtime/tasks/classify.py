"""Classification: which name fits the whole image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.features import Features
from samclip.runtime.results.answers import Classification
from samclip.runtime.texts.vocabulary import Vocabulary


def classify(
    features: Features, vocabulary: Vocabulary, image: NDArray[np.uint8]
) -> Classification:
    """Compare the image embedding with the names: softmax of logit scale times cosine.

    CLIP's zero-shot rule (Radford et al. 2021, section 3.1), as SAM-CLIP section 4.1 uses it on
    its max-pooled head. Raises ClosedError, EngineRunError.
    """
    cosines = vocabulary.cosines(features.clip().image_embed[None])  # 1xK
    return Classification(
        names=vocabulary.names,
        probabilities=vocabulary.probabilities(cosines)[0],
        logits=cosines[0] * np.float32(vocabulary.logit_scale),
        trained_head=vocabulary.trained_head,
        image=image,
    )
