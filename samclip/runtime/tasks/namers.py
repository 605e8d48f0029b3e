"""How a bundle names masks and images: the one choice between the ways that there are."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.features import Features
from samclip.runtime.results.answers import Classification
from samclip.runtime.tasks.classify import classify
from samclip.runtime.tasks.given_masks import centres
from samclip.runtime.tasks.naming import AnyMasks, with_names
from samclip.runtime.tasks.region_naming import RegionNamer
from samclip.runtime.texts.vocabulary import Vocabulary


class Namer(Protocol):
    """Names what is in an image; raises CapabilityError, ClosedError, EngineRunError."""

    def name(self, masks: AnyMasks, features: Features, vocabulary: Vocabulary) -> AnyMasks:
        """Give each of N masks of the image the name that fits it best."""
        ...

    def classify(
        self, features: Features, vocabulary: Vocabulary, image: NDArray[np.uint8]
    ) -> Classification:
        """Compare the whole image, HWC uint8 RGB, with the names."""
        ...


class TokenNamer:
    """A CLIP head's: its tokens pooled inside each mask, and its embedding of the image."""

    def name(self, masks: AnyMasks, features: Features, vocabulary: Vocabulary) -> AnyMasks:
        """Name masks as `with_names` does."""
        return with_names(masks, centres(masks), features, vocabulary)

    def classify(
        self, features: Features, vocabulary: Vocabulary, image: NDArray[np.uint8]
    ) -> Classification:
        """Compare the image's embedding with the names; see `samclip.runtime.tasks.classify`."""
        return classify(features, vocabulary, image)


def choose_namer(manifest: Manifest) -> Namer:
    """Take the way that the manifest describes; without any, one that refuses when asked."""
    if manifest.clip_head is None and manifest.region_head is not None:
        return RegionNamer()
    return TokenNamer()
