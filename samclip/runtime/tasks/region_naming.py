"""Naming by Open-Vocabulary SAM's two classifiers of regions, fused class by class.

After Yuan et al., arXiv 2401.02955v2, and F-VLM (Kuo et al., 2023); where the paper is silent,
after the public code (repository HarborYuan/ovsam, `seg/models/detectors/ovsam.py`). One classifier
is the trained head, good at the classes that it was trained with; the other is CLIP, frozen, which
has not forgotten the rest. Their probabilities are fused:

    log p = (1 - w) log p_head + w log p_clip

where w depends on the class: 0.1 for seen classes and the background, 0.9 for unseen ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from samclip.engines.limits import MAX_REGIONS, MAX_TEXTS
from samclip.errors import InputError
from samclip.runtime.features import Features, Regions
from samclip.runtime.photo import Photo, changed
from samclip.runtime.results.classification import Classification
from samclip.runtime.tasks.regions import CELL, regions_of, whole_image
from samclip.runtime.tasks.token_naming import AnyMasks
from samclip.runtime.text.vocabulary import Vocabulary

SEEN_WEIGHT = 0.1  # of CLIP, for classes that the head was trained with
UNSEEN_WEIGHT = 0.9
BACKGROUND_LOGIT = 0.0  # of any region: the background's text is the zero vector
Score = Callable[[Regions, NDArray[np.float32]], NDArray[np.float32]]


class RegionNamer:
    """Names masks by both classifiers, and images by CLIP (Yuan et al. 2024, section 3.3).

    Masks are named 16 at a time, so memory does not grow with their number: with K names it holds
    16 x K logits of each classifier, and the texts. Methods raise CapabilityError, ClosedError,
    EngineRunError.
    """

    def name(self, masks: AnyMasks, features: Features, vocabulary: Vocabulary) -> AnyMasks:
        """Name each of N masks by its region, see `regions_of`; the best name counts.

        `name_probabilities` are fused probabilities, of which the background, which has no name,
        takes a part: all names together have less than 1. CLIP is left out for a mask that covers
        no cell of its map (`masks_on_grid`).
        """
        weights = clip_weights(vocabulary.seen, len(vocabulary.names))
        class_ids = np.zeros(len(masks), np.int64)
        shares = np.zeros(len(masks), np.float32)
        for start in range(0, len(masks), MAX_REGIONS):
            rows = slice(start, start + MAX_REGIONS)
            regions = regions_of(masks[rows], features.letterbox, features.mask_size)
            fused = _classify_regions(regions, features, vocabulary, weights)
            class_ids[rows] = fused.argmax(axis=1)
            shares[rows] = fused.max(axis=1)
        return changed(
            masks,
            vocabulary=vocabulary.names,
            class_ids=class_ids,
            name_probabilities=shares,
            trained_head=vocabulary.trained_head,
        )

    def classify(self, features: Features, vocabulary: Vocabulary, image: Photo) -> Classification:
        """Compare the whole image with the names, by CLIP alone: softmax of its logits.

        CLIP's pooling takes the box that the image fills like any region: its last map is sampled
        on the grid that the pooling was trained with, so the image is squeezed to a square where
        CLIP would crop it. It is the part of CLIP that CLIP's own zero-shot rule uses (Radford et
        al. 2021, section 3.1). The other classifier, which was trained on objects, is left out.
        `image`: HWC uint8 RGB.
        """
        region = whole_image(features.letterbox, features.mask_size)
        logits = _score_names(features.score_regions_by_clip, region, vocabulary)[0]  # 1xK -> K
        powers = np.exp(logits - logits.max())
        return Classification(
            names=vocabulary.names,
            probabilities=powers / powers.sum(),
            logits=logits,
            trained_head=vocabulary.trained_head,
            image=image,
        )


def _classify_regions(
    regions: Regions, features: Features, vocabulary: Vocabulary, weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run both classifiers on N regions, and fuse their logits: probabilities NxK."""
    head = _score_names(features.score_regions, regions, vocabulary)
    clip = _score_names(features.score_regions_by_clip, regions, vocabulary)
    cells = features.letterbox.image_size // CELL
    on_grid = masks_on_grid(regions.low_res_masks[:, 0], cells)
    return fused_probabilities(head, clip, weights, on_grid)


def _score_names(score: Score, regions: Regions, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Score N regions by the best synonym of each of K names: logits NxK."""
    text = vocabulary.embeddings  # RxD
    parts = [
        score(regions, text[start : start + MAX_TEXTS]) for start in range(0, len(text), MAX_TEXTS)
    ]
    return vocabulary.best_synonyms(np.concatenate(parts, axis=1))  # NxR -> NxK


def clip_weights(seen: NDArray[np.bool_] | None, classes: int) -> NDArray[np.float32]:
    """Return CLIP's weight for K `classes` and, last, the background: K + 1 float32 in [0, 1].

    `seen`: K bool, the classes that the head was trained with; None means that none was.
    """
    known = np.zeros(classes, np.bool_) if seen is None else np.asarray(seen, np.bool_)
    if known.shape != (classes,):
        raise InputError(f"seen has shape {known.shape}, expected ({classes},), one for each class")
    weights = np.where([*known, True], SEEN_WEIGHT, UNSEEN_WEIGHT)
    return weights.astype(np.float32)


def masks_on_grid(logits: NDArray[np.floating], cells: int) -> NDArray[np.bool_]:
    """Find the masks among N that cover a cell of CLIP's last map: N bool.

    `logits`: NxHxH, low-resolution masks of the whole input; H is an even multiple of `cells`, the
    map's side. As in the released code, they are interpolated linearly at the cells' centres, each
    between four pixels; above 0 is inside.
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
    rows = masks[:, before] + masks[:, after]  # the four pixels have equal shares
    values = rows[:, :, before] + rows[:, :, after]
    return np.asarray((values > 0).any(axis=(1, 2)))


def fused_probabilities(
    head: NDArray[np.floating],
    clip: NDArray[np.floating],
    weights: NDArray[np.floating],
    on_grid: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Fuse two classifiers' logits of N regions and K classes: probabilities NxK in [0, 1].

    `head` and `clip` are NxK logits without the background, which is added here; `weights` are
    those of `clip_weights`. As in the released code the fused values go through the softmax once
    more. The background's share is dropped at the end, so a row sums to less than 1. `on_grid`: N
    bool, False where CLIP's weights are 0, because the mask covers no cell of its map (see
    `masks_on_grid`). Raises InputError when the shapes do not fit together.
    """
    head = _as_logits(head, "head")
    clip = _as_logits(clip, "clip")
    regions, classes = head.shape
    if clip.shape != head.shape or np.shape(weights) != (classes + 1,):
        raise InputError(
            f"head {head.shape}, clip {clip.shape} and weights {np.shape(weights)} do not fit; "
            "expected NxK, NxK and K+1, the background's weight being the last"
        )
    if on_grid is not None and np.shape(on_grid) != (regions,):
        raise InputError(f"on_grid has shape {np.shape(on_grid)}, expected ({regions},)")
    counts = np.ones((regions, 1)) if on_grid is None else np.asarray(on_grid, float)[:, None]
    share = np.asarray(weights, np.float64) * counts  # NxK+1
    fused = (1 - share) * _log_softmax(head) + share * _log_softmax(clip)
    probabilities = np.exp(_log_softmax(fused, background=False))
    return np.asarray(probabilities[:, :-1], np.float32)


def _log_softmax(logits: NDArray[np.floating], background: bool = True) -> NDArray[np.float64]:
    """Return the log-softmax over K classes and `background`, which False says is there already."""
    rows = np.asarray(logits, np.float64)
    if background:
        rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=BACKGROUND_LOGIT)
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _as_logits(logits: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    array = np.asarray(logits, np.float32)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} has shape {array.shape}, expected NxK, one class or more")
    return array
