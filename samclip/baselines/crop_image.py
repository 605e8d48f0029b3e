"""SAM's masks, each named by a pass of another encoder over the part of the image around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.baselines.crops import check_margin, cut
from samclip.baselines.encoders import ImageEncoder
from samclip.baselines.scene import BaselineScene
from samclip.runtime.model import Model
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import GetVocabulary
from samclip.runtime.tasks.naming import named
from samclip.runtime.text.vocabulary import Vocabulary


class CropImage:
    """The first baseline of Open-Vocabulary SAM: one pass of `encoder` for each mask.

    `sam`: whose masks are taken; `vocabulary`: puts names into the encoder's text space, for
    instance `Model.vocabulary` of a bundle with that space. The crop is the box around the mask,
    with a `margin` as in `cut`; what lies beside the mask stays in it, which the paper leaves
    open. A mask without a pixel is named by the whole image.
    """

    def __init__(
        self, sam: Model, encoder: ImageEncoder, vocabulary: GetVocabulary, margin: float = 0.0
    ) -> None:
        self._sam = sam
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._margin = check_margin(margin)

    def encode(self, image: Any) -> BaselineScene:
        """Run SAM's encoder on an image, as `Model.encode` does; raises as it does."""
        scene = self._sam.encode(image)
        namer = _CropNamer(scene.image, self._encoder, self._margin)
        return BaselineScene(scene, namer, self._vocabulary)


class _CropNamer:
    def __init__(self, image: NDArray[np.uint8], encoder: ImageEncoder, margin: float) -> None:
        self._image, self._encoder, self._margin = image, encoder, margin

    def name(self, masks: Masks, vocabulary: Vocabulary) -> Masks:
        crops = [cut(self._image, box, self._margin) for box in masks.boxes]
        dim = vocabulary.embeddings.shape[1]
        rows = self._encoder.embed_images(crops) if crops else np.zeros((0, dim), np.float32)
        return named(masks, rows, vocabulary)
