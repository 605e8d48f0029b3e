"""Names for boxes: Open-Vocabulary SAM's two classifiers of regions, and what is fused of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from samclip.runtime.features import Features
from samclip.runtime.images.letterbox import Letterbox
from samclip.runtime.results.answers import Classification
from samclip.runtime.results.masks import Masks
from samclip.runtime.tasks.fusion import clip_weights, fused_probabilities, masks_on_grid
from samclip.runtime.tasks.given_masks import centres
from samclip.runtime.tasks.naming import AnyMasks
from samclip.runtime.texts.vocabulary import Vocabulary

CELL = 32  # pixels of the input along a side of a cell of CLIP's last map
# Bounds per run: memory grows with regions, and with regions times texts.
MAX_REGIONS = 16
MAX_TEXTS = 32_768

Score = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


class RegionNamer:
    """Open-Vocabulary SAM's: a trained classifier of boxes, and CLIP's own opinion of them.

    Yuan et al. 2024, section 3.3. Memory does not grow with the number of masks: 16 boxes are
    worked on at a time. With K names it holds 16 x K logits of each classifier, and the texts.
    """

    def name(self, masks: AnyMasks, features: Features, vocabulary: Vocabulary) -> AnyMasks:
        """Give each of N masks the name that fits its box best; see `region_boxes` for which box.

        `name_probabilities` are what is left of the fused probabilities beside a background of
        no name: all names together have less than 1. CLIP's opinion of a mask that covers none of
        its cells is left out (`masks_on_grid`).
        """
        boxes = region_boxes(masks, features.letterbox)
        weights = clip_weights(vocabulary.seen, len(vocabulary.names))
        class_ids = np.zeros(len(masks), np.int64)
        shares = np.zeros(len(masks), np.float32)
        for start in range(0, len(masks), MAX_REGIONS):
            rows = slice(start, start + MAX_REGIONS)
            head = _best_of_texts(features.score_regions, boxes[rows], vocabulary)
            clip = _best_of_texts(features.score_regions_by_clip, boxes[rows], vocabulary)
            logits = _low_resolution(masks, rows, features)
            on_grid = masks_on_grid(logits, features.letterbox.image_size // CELL)
            fused = fused_probabilities(head, clip, weights, on_grid)  # nxK
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
        height, width = features.letterbox.input_size
        box = np.asarray([[0, 0, width, height]], np.float32)
        logits = _best_of_texts(features.score_regions_by_clip, box, vocabulary)  # 1xK
        powers = np.exp(logits[0] - logits[0].max())
        return Classification(
            names=vocabulary.names,
            probabilities=powers / powers.sum(),
            logits=logits[0],
            trained_head=vocabulary.trained_head,
            image=image,
        )


def region_boxes(masks: Masks, letterbox: Letterbox) -> NDArray[np.float32]:
    """Choose the boxes by which N masks are named: Nx4 XYXY in pixels of the input.

    The prompt's own box; of a prompt without one, and of masks without prompts, the box around
    the mask, as the paper takes it for points. (The released code takes it from the mask in low
    resolution, to four pixels of the input.) A mask without a pixel has none: then it is a cell of
    CLIP's map around what its prompt pointed at, or the middle of the image.
    """
    own = [_own_box(masks, int(index)) for index in masks.prompt_index]
    chosen = [box if box is not None else masks.boxes[row] for row, box in enumerate(own)]
    corners = np.asarray(chosen, np.float64).reshape(-1, 2, 2)  # Nx4 -> Nx2x2
    boxes = letterbox.to_input(corners).reshape(-1, 4)  # Nx2x2 -> Nx4
    for row, centre in enumerate(centres(masks)):
        if own[row] is None and not masks.areas[row]:
            boxes[row] = _cell_around(centre, letterbox)
    return boxes


def _own_box(masks: Masks, index: int) -> NDArray[np.float64] | None:
    if not masks.prompts:
        return None
    prompt = masks.prompts[index]
    return prompt.box if prompt.has_own_box else None


def _cell_around(centre: NDArray[np.float64] | None, letterbox: Letterbox) -> NDArray[np.float32]:
    height, width = letterbox.original_size
    point = letterbox.to_input((width / 2, height / 2) if centre is None else centre)
    return np.concatenate([point - CELL / 2, point + CELL / 2]).astype(np.float32)


def _best_of_texts(
    score: Score, boxes: NDArray[np.float32], vocabulary: Vocabulary
) -> NDArray[np.float32]:
    """Score N boxes by the best synonym of each of K names: logits NxK."""
    text = vocabulary.embeddings  # RxD
    parts = [
        score(boxes, text[start : start + MAX_TEXTS]) for start in range(0, len(text), MAX_TEXTS)
    ]
    return vocabulary.best_synonyms(np.concatenate(parts, axis=1))  # NxR


def _low_resolution(masks: Masks, rows: slice, features: Features) -> NDArray[np.float32]:
    """Give some masks in the decoder's frame, nxhxw: as it drew them, or -1 and 1 of others."""
    drawn, side = masks.low_res_logits, features.mask_size
    if drawn is not None and drawn.shape[1:] == (side, side):
        return drawn[rows]
    chosen = range(*rows.indices(len(masks)))
    return np.stack([_sampled(masks.packed.unpack(i), features.letterbox, side) for i in chosen])


def _sampled(mask: NDArray[np.bool_], letterbox: Letterbox, side: int) -> NDArray[np.float32]:
    """Read a HxW mask at the centres of a grid over the input, hxw: 1 inside, -1 outside."""
    places = (np.arange(side) + 0.5) / side * letterbox.image_size  # in pixels of the input
    sizes = zip(letterbox.original_size, letterbox.input_size, strict=True)
    rows, columns = [
        (places[places < resized] * (original / resized)).astype(int) for original, resized in sizes
    ]
    sampled = np.full((side, side), -1, np.float32)
    sampled[: len(rows), : len(columns)] = np.where(mask[np.ix_(rows, columns)], 1, -1)
    return sampled
