"""Names for regions: Open-Vocabulary SAM's two classifiers, and what is fused of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.features import Features, Regions
from samclip.runtime.results.answers import Classification
from samclip.runtime.tasks.fusion import clip_weights, fused_probabilities, masks_on_grid
from samclip.runtime.tasks.naming import AnyMasks
from samclip.runtime.tasks.regions import CELL, regions_of, whole_image
from samclip.runtime.texts.vocabulary import Vocabulary

# Bounds per run: memory grows with regions, and with regions times texts.
MAX_REGIONS = 16
MAX_TEXTS = 32_768

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
