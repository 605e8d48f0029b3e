"""How a bundle names masks and images: the one choice between the ways that there are.

Naming regions as Open-Vocabulary SAM does: two opinions, fused class by class.

Yuan et al., arXiv 2401.02955v2, after F-VLM (Kuo et al., 2023); the public code (repository
HarborYuan/ovsam, `seg/models/detectors/ovsam.py`) for what the paper leaves open. One opinion is
the trained head's, good at the classes that it was trained with; the other is that of CLIP, frozen,
which has not forgotten the rest. With the probabilities of each,

    log p = (1 - w) log p_head + w log p_clip

where the class decides w: 0.1 for seen classes and the background, 0.9 for unseen ones.

Names for regions: Open-Vocabulary SAM's two classifiers, and what is fused of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.engines.limits import MAX_REGIONS, MAX_TEXTS
from samclip.errors import InputError
from samclip.runtime.bundles.manifest import Manifest
from samclip.runtime.features import Features, Regions
from samclip.runtime.results.classification import Classification
from samclip.runtime.tasks.naming import AnyMasks, classify, with_names
from samclip.runtime.tasks.regions import CELL, centres, regions_of, whole_image
from samclip.runtime.text.vocabulary import Vocabulary

SEEN_WEIGHT = 0.1  # of CLIP's opinion, for classes that the head was trained with
UNSEEN_WEIGHT = 0.9
BACKGROUND_LOGIT = 0.0  # of any region with the zero vector, the background's text


def clip_weights(seen: NDArray[np.bool_] | None, classes: int) -> NDArray[np.float32]:
    """Weigh CLIP's opinion for K `classes` and, last, the background: K + 1 float32 in [0, 1].

    `seen` tells which classes the head was trained with: K bool. Without it, None, all of them
    count as unseen.
    """
    known = np.zeros(classes, np.bool_) if seen is None else np.asarray(seen, np.bool_)
    if known.shape != (classes,):
        raise InputError(f"seen has shape {known.shape}, expected ({classes},), one for each class")
    weights = np.where([*known, True], SEEN_WEIGHT, UNSEEN_WEIGHT)
    return weights.astype(np.float32)


def fused_probabilities(
    head: NDArray[np.floating],
    clip: NDArray[np.floating],
    weights: NDArray[np.floating],
    on_grid: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Fuse two opinions of N regions on K classes: NxK float32 in [0, 1].

    `head` and `clip` are NxK logits, without the background, which is added here; `weights` are
    those of `clip_weights`. What is fused goes through the softmax once more, as in the released
    code, and the background's share is left out at the end: so a row sums to less than 1.
    `on_grid`, N bool, is false where CLIP has nothing to say, its weights being 0 there: where
    `masks_on_grid` finds no cell. Raises InputError when the shapes do not fit together.
    """
    ours, theirs = _checked(head, "head"), _checked(clip, "clip")
    regions, classes = ours.shape
    if theirs.shape != ours.shape or np.shape(weights) != (classes + 1,):
        raise InputError(
            f"head {ours.shape}, clip {theirs.shape} and weights {np.shape(weights)} do not fit; "
            "expected NxK, NxK and K+1, the background's weight being the last"
        )
    if on_grid is not None and np.shape(on_grid) != (regions,):
        raise InputError(f"on_grid has shape {np.shape(on_grid)}, expected ({regions},)")
    there = np.ones((regions, 1)) if on_grid is None else np.asarray(on_grid, float)[:, None]
    share = np.asarray(weights, np.float64) * there  # NxK+1
    fused = (1 - share) * _log_softmax(ours) + share * _log_softmax(theirs)
    probabilities = np.exp(_log_softmax(fused, background=False))
    return np.asarray(probabilities[:, :-1], np.float32)


def masks_on_grid(logits: NDArray[np.floating], cells: int) -> NDArray[np.bool_]:
    """Tell which of N masks cover a cell of CLIP's last map: N bool.

    `logits` is NxHxH, low-resolution masks of the whole input frame, H an even multiple of `cells`,
    the map's side. As in the released code they are interpolated linearly at the cells' centres,
    each between four pixels; above 0 is inside.
    """
    masks = np.asarray(logits, np.float32)
    factor = masks.shape[-1] // cells if masks.ndim == 3 and cells > 0 else 0
    if factor < 2 or factor % 2 or masks.shape[1:] != (factor * cells, factor * cells):
        raise InputError(
            f"masks of shape {masks.shape} cannot be read on {cells} x {cells} cells; expected "
            "NxHxH with H an even multiple of the cells"
        )
    before = slice(factor // 2 - 1, None, factor)  # a cell's centre lies between two pixels
    after = slice(factor // 2, None, factor)
    rows = masks[:, before] + masks[:, after]  # the four have equal shares
    values = rows[:, :, before] + rows[:, :, after]
    return np.asarray((values > 0).any(axis=(1, 2)))


def _log_softmax(logits: NDArray[np.floating], background: bool = True) -> NDArray[np.float64]:
    """Take the logarithm of the softmax over K classes, and the background unless it is there."""
    rows = np.asarray(logits, np.float64)
    if background:
        rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=BACKGROUND_LOGIT)
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _checked(logits: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    array = np.asarray(logits, np.float32)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} has shape {array.shape}, expected NxK, one class or more")
    return array


Score = Callable[[Regions, NDArray[np.float32]], NDArray[np.float32]]


class RegionNamer:
    """Open-Vocabulary SAM's: a trained classifier of boxes, and CLIP's own opinion of them.

    Yuan et al. 2024, section 3.3. Memory does not grow with the number of masks: 16 of them are
    worked on at a time. With K names it holds 16 x K logits of each classifier, and the texts.
    """

    def name(self, masks: AnyMasks, features: Features, vocabulary: Vocabulary) -> AnyMasks:
        """Give each of N masks the name that fits its region best; see `regions_of`.

        `name_probabilities` are what is left of the fused probabilities beside a background of
        no name: all names together have less than 1. CLIP's opinion of a mask that covers none of
        its cells is left out (`masks_on_grid`).
        """
        weights = clip_weights(vocabulary.seen, len(vocabulary.names))
        class_ids = np.zeros(len(masks), np.int64)
        shares = np.zeros(len(masks), np.float32)
        for start in range(0, len(masks), MAX_REGIONS):
            rows = slice(start, start + MAX_REGIONS)
            regions = regions_of(masks[rows], features.letterbox, features.mask_size)
            fused = _fused(regions, features, vocabulary, weights)
            class_ids[rows] = fused.argmax(axis=1)
            shares[rows] = fused.max(axis=1)
        return replace(
            masks,
            vocabulary=vocabulary.names,
            class_ids=class_ids,
            name_probabilities=shares,
            trained_head=vocabulary.trained_head,
        )

    def classify(
        self, features: Features, vocabulary: Vocabulary, image: NDArray[np.uint8]
    ) -> Classification:
        """Compare the whole image with the names, by CLIP alone: softmax of its logits.

        CLIP's pooling takes the box that the image fills as it takes any region: its last map read
        in the grid that the pooling was trained with, in which the image is squeezed to a square,
        where CLIP would crop it. Its parts are those that CLIP's own zero-shot rule uses (Radford
        et al. 2021, section 3.1); the classifier, trained on objects, is left out.
        """
        region = whole_image(features.letterbox, features.mask_size)
        logits = _best_of_texts(features.score_regions_by_clip, region, vocabulary)[0]  # 1xK -> K
        powers = np.exp(logits - logits.max())
        return Classification(
            names=vocabulary.names,
            probabilities=powers / powers.sum(),
            logits=logits,
            trained_head=vocabulary.trained_head,
            image=image,
        )


def _fused(
    regions: Regions, features: Features, vocabulary: Vocabulary, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Ask both classifiers of N regions, and fuse what they say: probabilities NxK."""
    head = _best_of_texts(features.score_regions, regions, vocabulary)
    clip = _best_of_texts(features.score_regions_by_clip, regions, vocabulary)
    cells = features.letterbox.image_size // CELL
    on_grid = masks_on_grid(regions.low_res_masks[:, 0], cells)
    return fused_probabilities(head, clip, weights, on_grid)


def _best_of_texts(score: Score, regions: Regions, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Score N regions by the best synonym of each of K names: logits NxK."""
    text = vocabulary.embeddings  # RxD
    parts = [
        score(regions, text[start : start + MAX_TEXTS]) for start in range(0, len(text), MAX_TEXTS)
    ]
    return vocabulary.best_synonyms(np.concatenate(parts, axis=1))  # NxR -> NxK


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
        """Compare the image's embedding with the names; see `samclip.runtime.tasks.naming`."""
        return classify(features, vocabulary, image)


def choose_namer(manifest: Manifest) -> Namer:
    """Take the way that the manifest describes; without any, one that refuses when asked."""
    if manifest.clip_head is None and manifest.region_head is not None:
        return RegionNamer()
    return TokenNamer()
