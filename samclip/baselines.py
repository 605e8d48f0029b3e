"""Parts of an image around its objects.

The second model of a baseline, as far as a baseline needs it.

An image encoded by a baseline: SAM's scene, whose masks another model names.

SAM's masks, named by features of another encoder's pass over the whole image.

SAM's masks, each named by a pass of another encoder over the part of the image around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samclip.errors import InputError
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.prompts import Arrays
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import GetVocabulary, Names, Scene, Templates
from samclip.runtime.tasks.regions import centres, parse_given
from samclip.runtime.tasks.token_naming import TokenSpread, attach_names, pool_tokens
from samclip.runtime.text.vocabulary import Vocabulary

MAX_MARGIN = 10.0


def check_margin(margin: float) -> float:
    """Return `margin`; raises InputError when it is negative or beyond all reason."""
    if not 0 <= margin <= MAX_MARGIN:
        raise InputError(f"the margin must be a number in [0, {MAX_MARGIN:g}]; got {margin!r}.")
    return margin


def cut(
    image: NDArray[np.uint8], box: Sequence[float] | NDArray[np.floating], margin: float = 0.0
) -> NDArray[np.uint8]:
    """Cut a `box`, XYXY in pixels, out of an HWC image, with all the pixels that it touches.

    `margin`: how much is added on each side, as a share of the box's own side, as far as the
    image goes. A box without a pixel in the image gives the whole image. Returns a view.
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


class Namer(Protocol):
    """Names masks of one image."""

    def name(self, masks: Masks, vocabulary: Vocabulary) -> Masks:
        """Give each mask the name that fits it best."""
        ...


class BaselineScene:
    """Answers as `samclip.Scene` does, by the same names; ends with `close()` or its block."""

    def __init__(self, sam: Scene, namer: Namer, get_vocabulary: GetVocabulary) -> None:
        self._sam = sam
        self._namer = namer
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
        """Segment by SAM and name by the other model; arguments and errors as `Scene.segment`."""
        masks = self._sam.segment(
            points, labels, boxes, mask, multimask=multimask, return_logits=return_logits
        )
        return masks if names is None else self.name(masks, names, templates)

    def name(self, masks: Masks | ArrayLike, names: Names, templates: Templates = None) -> Masks:
        """Name masks that exist already; arguments and errors as `Scene.name`."""
        self._sam.features.check_open()
        given = parse_given(masks, self.image)
        return self._namer.name(given, self._get_vocabulary(names, templates))

    def close(self) -> None:
        """Let go of the encoder's outputs; again: do nothing."""
        self._sam.close()

    def __enter__(self) -> BaselineScene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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
        return attach_names(masks, self._encoder.embed_pooled(pooled), vocabulary)


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
        return attach_names(masks, rows, vocabulary)
