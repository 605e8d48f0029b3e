from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.errors import InputError
from samclip.runtime.tasks.region_naming import clip_weights, fused_probabilities, masks_on_grid

Array = NDArray[np.float64]


def softmax(rows: Array) -> Array:
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def reference(head: Array, clip: Array, weights: Array) -> Array:
    """The formula as it is written, with powers of probabilities, in float64."""
    zero = np.zeros((len(head), 1))
    ours, theirs = softmax(np.hstack([head, zero])), softmax(np.hstack([clip, zero]))
    return softmax(np.log(ours ** (1 - weights) * theirs**weights))[:, :-1]


def logits(regions: int, classes: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(0, 5, (regions, classes))


@pytest.mark.parametrize("split", [None, [True, False, False, True, True]])
def test_equals_the_formula(split: list[bool] | None) -> None:
    head, clip = logits(7, 5, seed=0), logits(7, 5, seed=1)
    seen = None if split is None else np.asarray(split)
    weights = clip_weights(seen, 5)
    found = fused_probabilities(head, clip, weights)
    assert found.dtype == np.float32
    assert np.allclose(found, reference(head, clip, weights.astype(float)), atol=1e-6)
    assert (found.sum(axis=1) < 1).all()  # what is left is the background's


def test_weights() -> None:
    assert clip_weights(None, 2).tolist() == pytest.approx([0.9, 0.9, 0.1])
    assert clip_weights(np.asarray([True, False]), 2).tolist() == pytest.approx([0.1, 0.9, 0.1])


def test_seen_classes_follow_the_head_and_unseen_ones_clip() -> None:
    head, clip = np.asarray([[30.0, 26.0]]), np.asarray([[26.0, 30.0]])
    for seen, best in (([True, True], 0), ([False, False], 1)):
        weights = clip_weights(np.asarray(seen), 2)
        assert fused_probabilities(head, clip, weights).argmax() == best


def test_where_clip_sees_nothing_the_head_decides_alone() -> None:
    head, clip = logits(2, 4, seed=2), logits(2, 4, seed=3)
    weights = clip_weights(None, 4)
    found = fused_probabilities(head, clip, weights, np.asarray([False, True]))
    alone = softmax(np.hstack([head, np.zeros((2, 1))]))[:, :-1]
    assert np.allclose(found[0], alone[0], atol=1e-6)
    assert np.allclose(found[1], fused_probabilities(head, clip, weights)[1])


def test_nothing_underflows() -> None:
    """Cosines of -1 and 1, times 100, where powers of probabilities would be 0."""
    head, clip = np.asarray([[-100.0, 100.0]]), np.asarray([[100.0, -100.0]])
    found = fused_probabilities(head, clip, clip_weights(None, 2))
    assert np.isfinite(found).all()
    assert found.argmax() == 0


def test_no_regions() -> None:
    empty = np.zeros((0, 3))
    assert fused_probabilities(empty, empty, clip_weights(None, 3)).shape == (0, 3)


def test_misfits_are_refused() -> None:
    weights = clip_weights(None, 3)
    with pytest.raises(InputError, match="do not fit"):
        fused_probabilities(np.zeros((2, 3)), np.zeros((2, 4)), weights)
    with pytest.raises(InputError, match="do not fit"):
        fused_probabilities(np.zeros((2, 3)), np.zeros((2, 3)), weights[:-1])
    with pytest.raises(InputError, match="on_grid"):
        fused_probabilities(np.zeros((2, 3)), np.zeros((2, 3)), weights, np.ones(3, bool))
    with pytest.raises(InputError, match="expected NxK"):
        fused_probabilities(np.zeros(3), np.zeros((2, 3)), weights)
    with pytest.raises(InputError, match="seen"):
        clip_weights(np.ones(2, bool), 3)


def interpolated_somewhere(mask: Array, cells: int) -> bool:
    """Linear interpolation at each cell's centre, pixel centres at half."""
    factor = len(mask) / cells
    for row in range(cells):
        for column in range(cells):
            y, x = (row + 0.5) * factor - 0.5, (column + 0.5) * factor - 0.5
            top, left = int(y), int(x)
            near = mask[top : top + 2, left : left + 2]
            weight = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
            if (near * weight).sum() > 0:
                return True
    return False


@pytest.mark.parametrize(("side", "cells"), [(32, 4), (32, 16), (24, 4)])
def test_masks_on_grid(side: int, cells: int) -> None:
    masks = np.random.default_rng(0).normal(-2.2, 2, (40, side, side)).astype(np.float32)
    found = masks_on_grid(masks, cells)
    assert found.tolist() == [interpolated_somewhere(m.astype(float), cells) for m in masks]
    assert found.sum() > 0
    assert not masks_on_grid(-np.abs(masks), cells).any()


def test_a_mask_between_the_centres_covers_no_cell() -> None:
    mask = np.full((1, 32, 32), -1.0, np.float32)
    mask[0, 0, :] = 5
    assert not masks_on_grid(mask, 4)[0]


@pytest.mark.parametrize("shape", [(2, 32, 31), (32, 32), (1, 30, 30), (1, 4, 4)])
def test_masks_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="cells"):
        masks_on_grid(np.zeros(shape), 4)
