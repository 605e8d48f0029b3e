"""Naming by a CLIP head: masks by the tokens that they cover, images by their embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.bundles.manifest import Confidence
from samclip.runtime.features import Features
from samclip.runtime.photo import Photo, changed
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.pixels.mask_ops import PackedMasks, mask_box
from samclip.runtime.results.classification import Classification
from samclip.runtime.results.masks import Masks
from samclip.runtime.tasks.regions import prompt_centres
from samclip.runtime.text.vocabulary import Vocabulary

AnyMasks = TypeVar("AnyMasks", bound=Masks)
LEAST_COSINE = 0.01  # of those that tell how sure a head is of a region
TOKENS = (0.125, 256)


class TokenNamer:
    """Names masks and images by embeddings of tokens and of the image.

    CapabilityError for a bundle without them.
    """

    def name(self, masks: AnyMasks, features: Features, vocabulary: Vocabulary) -> AnyMasks:
        """Name each of N masks by the tokens that it covers: the cosines go through the softmax.

        Its scale is that of the text space, or what the head's `Confidence` makes of it.
        Raises ClosedError, EngineRunError.
        """
        embeddings, tokens = self._pool(masks, features)
        head = features.bundle.manifest.clip_head
        if head is None or head.confidence is None:
            return attach_names(masks, embeddings, vocabulary)
        sharpen = partial(sharpness, head.confidence, tokens)
        return attach_names(masks, embeddings, vocabulary, sharpen)

    def embed(self, masks: Masks, features: Features) -> NDArray[np.float32]:
        """Embed each of N masks by the tokens that it covers: NxD, not normalised.

        The patch embeddings are averaged, each weighted by the share of its token that the mask
        covers. This is the second baseline of Open-Vocabulary SAM, CLIP features pooled inside
        SAM's mask. Its paper does not say whether patches are normalised first. They are not here:
        a patch's length tells how sure the head is of it (docs/models/samclip-tiny.md shows the
        gain). A mask that covers no token of the image, such as an empty one, takes the token
        nearest to its centre: see `prompt_centres`.
        """
        return self._pool(masks, features)[0]

    def _pool(
        self, masks: Masks, features: Features
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        clip = features.clip()
        tokens = clip.patch_embeds.reshape(len(clip.patch_embeds), -1).T  # Dxhxw -> hwxD
        spread = TokenSpread(clip.letterbox, clip.token_mask)
        return pool_tokens(masks.packed, prompt_centres(masks), tokens, spread)

    def classify(self, features: Features, vocabulary: Vocabulary, image: Photo) -> Classification:
        """Compare the image embedding with the names: softmax of logit scale times cosine.

        CLIP's zero-shot rule (Radford et al. 2021, section 3.1), as SAM-CLIP, section 4.1, applies
        it to its max-pooled head; the head may have a factor on the scale, `image_confidence`.
        `image`: HWC uint8 RGB. Raises ClosedError, EngineRunError.
        """
        cosines = vocabulary.cosines(features.image_embed()[None])  # 1xK
        sure = np.full(1, features.bundle.manifest.image_confidence, np.float32)
        return Classification(
            names=vocabulary.names,
            probabilities=vocabulary.probabilities(cosines, sure)[0],
            logits=cosines[0] * np.float32(vocabulary.logit_scale) * sure,
            trained_head=vocabulary.trained_head,
            image=image,
        )


def pool_tokens(
    masks: PackedMasks,
    centres: Iterable[NDArray[np.float64] | None],
    tokens: NDArray[np.float32],
    spread: TokenSpread,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Average hwxD `tokens` inside each of N masks, weighted by area: NxD float32.

    A mask that covers no token takes the one nearest to its entry of `centres`: (x, y) in pixels
    of the original image, None for the middle of the image. Returns how many tokens each mask
    covers, too, parts of tokens included: N float32.
    """
    pooled: list[NDArray[np.float32]] = []
    counts: list[float] = []
    for mask, centre in zip(masks, centres, strict=True):
        covered = spread.covered(mask)
        pooled.append(spread.as_weights(covered, centre).reshape(-1) @ tokens)  # hw @ hwxD
        counts.append(spread.count(covered))
    embeddings = np.asarray(pooled, np.float32).reshape(-1, tokens.shape[1])
    return embeddings, np.asarray(counts, np.float32)


def attach_names(
    masks: AnyMasks,
    embeddings: NDArray[np.float32],
    vocabulary: Vocabulary,
    sharpen: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> AnyMasks:
    """Name each of N masks by its embedding, NxD: the name with the highest cosine.

    `sharpen` gives the N factors of the logit scale that belong to NxK cosines; None: all 1.
    """
    cosines = vocabulary.cosines(embeddings)
    best = cosines.argmax(axis=1)  # N
    factors = None if sharpen is None else sharpen(cosines)
    probabilities = vocabulary.probabilities(cosines, factors)  # NxK
    return changed(
        masks,
        vocabulary=vocabulary.names,
        class_ids=best.astype(np.int64),
        name_probabilities=np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0],
        trained_head=vocabulary.trained_head,
    )


def sharpness(
    confidence: Confidence, tokens: NDArray[np.floating], cosines: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the N factors of the logit scale of regions: see `Confidence`.

    `tokens`: how many each covers, N; `cosines` with the names: NxK.
    """
    highest = np.maximum(cosines.max(axis=1), LEAST_COSINE)
    by_cosine = (highest / confidence.cosine) ** -confidence.cosine_power
    by_size = np.clip(tokens, *TOKENS) ** confidence.size_power
    return np.asarray(by_cosine * by_size, np.float32)


class TokenSpread:
    """The areas that masks of the original image cover in each token.

    `token_mask`: hxw, 1 on tokens of the image, 0 on padding.
    """

    def __init__(self, letterbox: Letterbox, token_mask: NDArray[np.float32]) -> None:
        self._token_mask = token_mask
        self._token_side = letterbox.canvas[0] / len(token_mask)  # in pixels of the input
        sizes = zip(letterbox.original_size, letterbox.input_size, token_mask.shape, strict=True)
        self._rows, self._columns = (self._overlap(*each) for each in sizes)
        self._letterbox = letterbox

    def weights(
        self, mask: NDArray[np.bool_], centre: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """Return hxw weights that sum to 1: the share of the HxW mask in each token.

        A mask that covers no token has weight 1 on the token nearest to `centre`, (x, y).
        """
        return self.as_weights(self.covered(mask), centre)

    def as_weights(
        self, covered: NDArray[np.float32], centre: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        """Return the `weights` of a mask whose areas, hxw as `covered` returns them, are known."""
        total = covered.sum()
        return covered / total if total > 0 else self._nearest(centre)

    def covered(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return hxw: the area of the HxW mask in each token of the image, 0 on padding.

        Areas are in pixels of the encoder's input.
        """
        x0, y0, x1, y1 = mask_box(mask).astype(int)
        inside = mask[y0:y1, x0:x1].astype(np.float32)
        shares = self._rows[:, y0:y1] @ inside @ self._columns[:, x0:x1].T  # rows, columns
        return np.asarray(shares * self._token_mask, np.float32)

    def count(self, covered: NDArray[np.float32]) -> float:
        """Return how many tokens the areas of `covered` add up to, parts of tokens included."""
        return float(covered.sum()) / self._token_side**2

    def _overlap(self, original: int, resized: int, tokens: int) -> NDArray[np.float32]:
        """Return tokens x original: the length of each resized pixel inside each token."""
        edges = np.arange(original + 1) * (resized / original)
        starts = np.arange(tokens)[:, None] * self._token_side
        left = np.maximum(edges[None, :-1], starts)
        right = np.minimum(edges[None, 1:], starts + self._token_side)
        return np.asarray(np.maximum(right - left, 0), np.float32)

    def _nearest(self, centre: NDArray[np.float64] | None) -> NDArray[np.float32]:
        """Return weights that are 1 on the image token nearest to `centre`, (x, y)."""
        height, width = self._letterbox.original_size
        point = np.asarray([[width / 2, height / 2]]) if centre is None else centre[None]
        x, y = self._letterbox.to_input(point)[0] / self._token_side - 0.5
        rows, columns = np.indices(self._token_mask.shape)
        distances = (rows - y) ** 2 + (columns - x) ** 2
        distances[self._token_mask == 0] = np.inf
        weights = np.zeros(self._token_mask.shape, np.float32)
        weights.flat[distances.argmin()] = 1
        return weights
