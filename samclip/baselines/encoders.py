"""The second model of a baseline, as far as a baseline needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.model import Model
from samclip.runtime.pixels.image import Letterbox


class ImageEncoder(Protocol):
    """Puts whole images into a text space."""

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed N images, HWC uint8 RGB of any sizes: NxD float32, of any length but 0."""
        ...


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """Features at g x g places of an image.

    `tokens`: ggxC float32, row by row; `token_mask`: gxg float32, 1 on tokens of the image, 0 on
    padding; `letterbox`: how the image lies in the pass that made them.
    """

    tokens: NDArray[np.float32]
    token_mask: NDArray[np.float32]
    letterbox: Letterbox


class DenseEncoder(Protocol):
    """Gives features all over an image, and puts what was pooled of them into a text space."""

    def encode_densely(self, image: NDArray[np.uint8]) -> DenseFeatures:
        """Make one pass over an image, HWC uint8 RGB."""
        ...

    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed N averages of features, NxC: NxD float32, of any length but 0."""
        ...


class BundleEncoder:
    """A bundle with a CLIP head in either part, each image or crop by a pass of its encoder.

    Raises CapabilityError, on use, for a bundle without a CLIP head.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed N images, HWC uint8 RGB of any sizes: NxD float32."""
        rows = []
        for image in images:
            with self._model.encode(image) as scene:
                rows.append(scene.image_embed)
        return np.stack(rows)  # N, D

    def encode_densely(self, image: NDArray[np.uint8]) -> DenseFeatures:
        """Make one pass over an image, HWC uint8 RGB: its patch embeddings, as they are."""
        with self._model.encode(image) as scene:
            clip = scene.features.clip()
            tokens = clip.patch_embeds.reshape(len(clip.patch_embeds), -1).T  # Dxgxg -> ggxD
            return DenseFeatures(tokens, clip.token_mask, scene.features.letterbox)

    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return NxD as it is: patch embeddings are in the text space already."""
        return pooled
