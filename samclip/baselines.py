"""The baselines of Open-Vocabulary SAM: SAM makes the masks, and a second model names them.

`CropImage` runs the second model on a crop around each mask, `CropFeature` once on the whole image.
Both give a `BaselineScene`, which is used like `samclip.Scene`. A merged model is compared with
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import InputError
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.prompts import Arrays
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import GetVocabulary, Names, Scene, Templates
from samclip.runtime.tasks.regions import parse_given, prompt_centres
from samclip.runtime.tasks.token_naming import TokenSpread, attach_names, pool_tokens
from samclip.runtime.text.vocabulary import Vocabulary

MAX_MARGIN = 10.0

NameMasks = Callable[[Masks, Vocabulary], Masks]  # gives each mask the name that fits it best


def check_margin(margin: float) -> float:
    """Return `margin`; raises InputError when it is not in [0, MAX_MARGIN]."""
    if not 0 <= margin <= MAX_MARGIN:
        raise InputError(f"the margin must be a number in [0, {MAX_MARGIN:g}]; got {margin!r}.")
    return margin


def cut(
    image: NDArray[np.uint8], box: Sequence[float] | NDArray[np.floating], margin: float = 0.0
) -> NDArray[np.uint8]:
    """Return the part of an HWC image in a `box`, XYXY in pixels, with all pixels that it touches.

    `margin`: a share of the box's width and height that is added on each side, up to the edges of
    the image. A box without a pixel in the image gives the whole image. Returns a view.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (float(edge) for edge in box)
    more_x, more_y = (x1 - x0) * margin, (y1 - y0) * margin
    left, right = max(0, math.floor(x0 - more_x)), min(width, math.ceil(x1 + more_x))
    top, bottom = max(0, math.floor(y0 - more_y)), min(height, math.ceil(y1 + more_y))
    if left >= right or top >= bottom:
        return image
    return image[top:bottom, left:right]


class ImageEncoder(Protocol):
    """Puts whole images into a text space."""

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed N images, HWC uint8 RGB of any sizes: NxD float32, rows of any length but 0."""
        ...


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """Features at g x g places of an image.

    `tokens`: ggxC float32, row by row; `token_mask`: gxg float32, 1 on tokens of the image, 0 on
    padding; `letterbox`: how the image was placed in the input of the encoder.
    """

    tokens: NDArray[np.float32]
    token_mask: NDArray[np.float32]
    letterbox: Letterbox


class DenseEncoder(Protocol):
    """Computes features of all places of an image, and puts their averages into a text space."""

    def encode_densely(self, image: NDArray[np.uint8]) -> DenseFeatures:
        """Make one pass over an image, HWC uint8 RGB."""
        ...

    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed N averages of features, NxC: NxD float32, rows of any length but 0."""
        ...


class BundleEncoder:
    """A bundle with a CLIP head as the second model of either baseline.

    Its encoder makes one pass for each image or crop. Use of a bundle without a CLIP head raises
    CapabilityError.
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
        """Return the patch embeddings of an image, HWC uint8 RGB."""
        with self._model.encode(image) as scene:
            clip = scene.features.clip()
            tokens = clip.patch_embeds.reshape(len(clip.patch_embeds), -1).T  # Dxgxg -> ggxD
            return DenseFeatures(tokens, clip.token_mask, clip.letterbox)

    def embed_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `pooled` unchanged: averages of patch embeddings are in the text space already."""
        return pooled


class BaselineScene:
    """A scene of SAM whose masks `name_masks` names; its methods are those of `samclip.Scene`.

    It ends with `close()` or its `with` block.
    """

    def __init__(self, sam: Scene, name_masks: NameMasks, get_vocabulary: GetVocabulary) -> None:
        self._sam = sam
        self._name_masks = name_masks
        self._get_vocabulary = get_vocabulary

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image: HWC uint8 RGB, read-only."""
        return self._sam.image

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self._sam.size

    def segment(
        self,
        points: Arrays | None = None,
        labels: Arrays | None = None,
        boxes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        multimask: bool = False,
        names: Names | None = None,
        templates: Templates = None,
        return_logits: bool = False,
    ) -> Masks:
        """Segment with SAM, name with the second model; arguments and errors as `Scene.segment`."""
        masks = self._sam.segment(
            points, labels, boxes, mask, multimask=multimask, return_logits=return_logits
        )
        return masks if names is None else self.name(masks, names, templates)

    def name(self, masks: Masks | ArrayLike, names: Names, templates: Templates = None) -> Masks:
        """Name existing masks; arguments and errors as `Scene.name`."""
        self._sam.features.check_open()
        given = parse_given(masks, self.image)
        return self._name_masks(given, self._get_vocabulary(names, templates))

    def close(self) -> None:
        """Release the encoder's outputs; a second call does nothing."""
        self._sam.close()

    def __enter__(self) -> BaselineScene:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class CropImage:
    """The first baseline of Open-Vocabulary SAM: one pass of `encoder` for each mask.

    `sam` makes the masks; `vocabulary` puts names into the encoder's text space, for instance
    `Model.vocabulary` of a bundle with that space. The crop is the box around the mask, with a
    `margin` as in `cut`. Pixels of the crop outside the mask stay visible, which the paper leaves
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
        """Run SAM's encoder on an image; arguments and errors as `Model.encode`."""
        scene = self._sam.encode(image)
        return BaselineScene(scene, partial(self._name, scene.image), self._vocabulary)

    def _name(self, image: NDArray[np.uint8], masks: Masks, vocabulary: Vocabulary) -> Masks:
        crops = [cut(image, box, self._margin) for box in masks.boxes]
        dim = vocabulary.embeddings.shape[1]
        rows = self._encoder.embed_images(crops) if crops else np.zeros((0, dim), np.float32)
        return attach_names(masks, rows, vocabulary)


class CropFeature:
    """The second baseline of Open-Vocabulary SAM: one pass of `encoder` for each image.

    Its features are pooled inside each mask by the rule that names the masks of a merged model, so
    that only the features differ. `sam` and `vocabulary` as in `CropImage`. The second pass is made
    when names are first asked for.
    """

    def __init__(self, sam: Model, encoder: DenseEncoder, vocabulary: GetVocabulary) -> None:
        self._sam = sam
        self._encoder = encoder
        self._vocabulary = vocabulary

    def encode(self, image: Any) -> BaselineScene:
        """Run SAM's encoder on an image; arguments and errors as `Model.encode`."""
        scene = self._sam.encode(image)
        get_features = cache(partial(self._encoder.encode_densely, scene.image))

        def name(masks: Masks, vocabulary: Vocabulary) -> Masks:
            features = get_features()
            spread = TokenSpread(features.letterbox, features.token_mask)
            pooled, _ = pool_tokens(masks.packed, prompt_centres(masks), features.tokens, spread)
            return attach_names(masks, self._encoder.embed_pooled(pooled), vocabulary)

        return BaselineScene(scene, name, self._vocabulary)
