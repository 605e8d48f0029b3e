from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samclip.runtime.pixels.masks import PackedMasks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4), st.integers(1, 11), st.integers(1, 11), st.integers(0, 2**32 - 1))
def test_masks_come_back(count: int, height: int, width: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((count, height, width)) > 0.5
    packed = PackedMasks.pack(masks, (height, width))
    assert packed.bits.shape == (count, -(-height * width // 8))
    np.testing.assert_array_equal(packed.unpack_all(), masks)
    np.testing.assert_array_equal(packed.areas(), masks.sum((1, 2)))
    assert [mask.tolist() for mask in packed] == masks.tolist()


def test_selecting_and_joining() -> None:
    masks = np.eye(9, dtype=bool).reshape(9, 3, 3)
    packed = PackedMasks.pack(masks, (3, 3))
    order = np.array([4, 0])
    np.testing.assert_array_equal(packed.select(order).unpack_all(), masks[order])
    joined = PackedMasks.concatenate([packed.select(order), packed], (3, 3))
    np.testing.assert_array_equal(joined.unpack_all(), np.concatenate([masks[order], masks]))
    assert len(PackedMasks.concatenate([], (3, 3))) == 0


def test_an_unpacked_mask_is_ones_own() -> None:
    packed = PackedMasks.pack([np.zeros((2, 5), bool)], (2, 5))
    packed.unpack(0)[:] = True
    assert packed.areas().tolist() == [0]


def test_a_bit_per_pixel() -> None:
    packed = PackedMasks.pack(np.ones((3, 100, 80), bool), (100, 80))
    assert packed.bits.nbytes == pytest.approx(3 * 100 * 80 / 8)
