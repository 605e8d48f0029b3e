"""SAM's masks, named by features of another encoder's pass over the whole image."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.baselines.encoders import DenseEncoder, DenseFeatures
from samclip.baselines.scene import BaselineScene
from samclip.runtime.model import Model
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import GetVocabulary
from samclip.runtime.tasks.naming import TokenSpread, named, pool_tokens
from samclip.runtime.tasks.regions import centres
from samclip.runtime.text.vocabulary import Vocabulary


class CropFeature:
    """The second baseline of Open-Vocabulary SAM: one pass of `encoder` for each image.

    Its features are pooled inside each mask by the rule of `with_names`, which names the masks
    of a merged model, so that nothing but the features differs. `sam` and `vocabulary` as in
    `CropImage`. The second pass is made when names are first asked for.
    """

    def __init__(self, sam: Model, encoder: DenseEncoder, vocabulary: GetVocabulary) -> None:
        self._sam = sam
        self._encoder = encoder
        self._vocabulary = vocabulary

    def encode(self, image: Any) -> BaselineScene:
        """Run SAM's encoder on an image, as `Model.encode` does; raises as it does."""
        scene = self._sam.encode(image)
        return BaselineScene(scene, _PoolNamer(scene.image, self._encoder), self._vocabulary)


class _PoolNamer:
    def __init__(self, image: NDArray[np.uint8], encoder: DenseEncoder) -> None:
        self._image, self._encoder = image, encoder

    @cached_property
    def _features(self) -> DenseFeatures:
        return self._encoder.encode_densely(self._image)

    def name(self, masks: Masks, vocabulary: Vocabulary) -> Masks:
        spread = TokenSpread(self._features.letterbox, self._features.token_mask)
        pooled = pool_tokens(masks.packed, centres(masks), self._features.tokens, spread)
        return named(masks, self._encoder.embed_pooled(pooled), vocabulary)
