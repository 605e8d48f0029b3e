from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from samclip.runtime.pixels.mask_ops import (
    PackedMasks,
    encode_rle,
    foreground_confidence,
    mask_box,
    mask_extent,
    near_crop_edge,
    nms,
    remove_small_regions,
    stability_score,
)


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def torchvision_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """torchvision's CPU kernel, pair by pair: the definition."""
    x0, y0, x1, y1 = boxes.unbind(1)
    areas = (x1 - x0) * (y1 - y0)
    order = scores.sort(stable=True, descending=True).indices.tolist()
    suppressed, keep = set(), []
    for place, i in enumerate(order):
        if i in suppressed:
            continue
        keep.append(i)
        for j in order[place + 1 :]:
            width = (torch.minimum(x1[i], x1[j]) - torch.maximum(x0[i], x0[j])).clamp(min=0)
            height = (torch.minimum(y1[i], y1[j]) - torch.maximum(y0[i], y0[j])).clamp(min=0)
            inter = width * height
            if float(inter / (areas[i] + areas[j] - inter)) > threshold:
                suppressed.add(j)
    return keep


edges = st.integers(0, 12)
box = st.tuples(edges, edges, edges, edges).map(
    lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3]))
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(box, st.sampled_from([0.1, 0.5, 0.9])), max_size=12),
    st.sampled_from([0.0, 0.25, 0.5, 0.7]),
)
def test_nms_equals_torchvisions_definition(rows: list, threshold: float) -> None:
    boxes = torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([row[1] for row in rows], dtype=torch.float32)
    expected = torchvision_nms(boxes, scores, threshold)
    assert nms(boxes.numpy(), scores.numpy(), threshold).tolist() == expected


def test_nms_keeps_a_box_at_exactly_the_threshold() -> None:
    boxes = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)  # IoU 0.5
    assert nms(boxes, np.array([1.0, 0.5]), 0.5).tolist() == [0, 1]
    assert nms(boxes, np.array([1.0, 0.5]), 0.49).tolist() == [0]


def test_extent_is_inclusive_and_box_is_not() -> None:
    mask = rectangle(3, 4, 10, 6)
    assert mask_extent(mask) == (3, 4, 9, 5)
    assert mask_box(mask).tolist() == [3, 4, 10, 6]


def test_an_empty_mask_has_a_zero_box() -> None:
    mask = np.zeros((5, 6), bool)
    assert mask_extent(mask) == (0, 0, 0, 0)
    assert mask_box(mask).tolist() == [0, 0, 0, 0]


def test_a_corner_pixel_has_a_box_of_area_one() -> None:
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = True
    assert mask_box(mask).tolist() == [0, 0, 1, 1]


def test_stability_is_the_quotient_of_areas() -> None:
    logits = np.array([[2.0, 0.5, -0.5, -2.0]], np.float32)
    assert stability_score(logits, 1.0) == pytest.approx(1 / 3)
    assert stability_score(logits, 0.0) == 1.0
    assert stability_score(np.full((2, 2), -9, np.float32), 1.0) == 0  # nothing is not stable


def test_near_crop_edge_forgives_edges_of_the_image() -> None:
    crop, image = (100, 0, 200, 100), (100, 300)
    boxes = np.array(
        [[50, 0, 60, 50], [10, 30, 40, 60], [50, 30, 95, 60], [21, 30, 79, 60]], np.float32
    )
    assert near_crop_edge(boxes, crop, image).tolist() == [False, True, True, False]


def test_holes_are_filled_and_islands_dropped() -> None:
    mask = rectangle(2, 2, 18, 18)
    mask[8:10, 8:10] = False
    mask[1, 25] = True
    filled, changed = remove_small_regions(mask, 5, "holes")
    assert changed
    assert filled[8:10, 8:10].all()
    cleaned, changed = remove_small_regions(filled, 5, "islands")
    assert changed
    np.testing.assert_array_equal(cleaned, rectangle(2, 2, 18, 18))
    same, changed = remove_small_regions(cleaned, 5, "islands")
    assert not changed
    assert same is cleaned


def test_the_largest_island_stays_when_all_are_small() -> None:
    mask = rectangle(1, 1, 3, 3)
    mask[10, 10] = True
    kept, _ = remove_small_regions(mask, 100, "islands")
    np.testing.assert_array_equal(kept, rectangle(1, 1, 3, 3))


# pycocotools 2.0.11 decodes with a warning of numpy 2.4.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_rle_comes_back_through_pycocotools(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    rle = encode_rle(mask)
    assert isinstance(rle["counts"], str)
    assert rle["size"] == [height, width]
    np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)


def test_foreground_confidence() -> None:
    logits = np.full((2, 1, 4, 4), -3.0, np.float32)
    logits[0, 0, :2] = np.log(3)  # probability 3/4
    logits[0, 0, 0, 0] = 1e30
    logits[0, 0, 3] = 100  # outside
    inside = np.ones((4, 4), bool)
    inside[3] = False
    found = foreground_confidence(logits, inside)
    np.testing.assert_allclose(found, [[(7 * 0.75 + 1) / 8], [0]], rtol=1e-6)
    assert found.dtype == np.float32


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
