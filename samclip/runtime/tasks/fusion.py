"""Naming regions as Open-Vocabulary SAM does: two opinions, fused class by class.

Yuan et al., arXiv 2401.02955v2, after F-VLM (Kuo et al., 2023); the public code (repository
HarborYuan/ovsam, `seg/models/detectors/ovsam.py`) for what the paper leaves open. One opinion is
the trained head's, good at the classes that it was trained with; the other is that of CLIP, frozen,
which has not forgotten the rest. With the probabilities of each,

    log p = (1 - w) log p_head + w log p_clip

where the class decides w: 0.1 for seen classes and the background, 0.9 for unseen ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError

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
