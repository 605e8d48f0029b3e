from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_roi_align import reference_level, reference_roi_align

from samclip.export.models.ovsam.roi_classifier import STRIDES, Levels, level_of, region_features

SIZE = 12
# (x0, y0, x1, y1) and the level, at both sides of every limit: sqrt(area) of 112, 224 and 448.
LIMITS = [
    ((0, 0, 10, 10), 0),
    ((5, 5, 116.9, 117), 0),
    ((5, 5, 117, 117), 1),
    ((0, 0, 223.9, 224), 1),
    ((0, 0, 112, 448), 2),
    ((0, 0, 448, 447.9), 2),
    ((0, 0, 448, 448), 3),
    ((0, 0, 1024, 1024), 3),
    ((-10, 0, 1034, 12), 0),
    ((7, 7, 7, 7), 0),
]


def random_boxes(count: int, side: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * side
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


@pytest.mark.parametrize(("box", "level"), LIMITS)
def test_limits(box: tuple[float, ...], level: int) -> None:
    boxes = torch.tensor([box], dtype=torch.float32)
    assert int(level_of(boxes)[0]) == level
    if boxes[0, 2] > boxes[0, 0]:
        assert reference_level(boxes[0].numpy()) == level


def test_levels_are_those_of_the_logarithm() -> None:
    boxes = random_boxes(2000, 1024.0)
    expected = [reference_level(box) for box in boxes.numpy()]
    assert level_of(boxes).tolist() == expected
    assert np.bincount(expected, minlength=4).min() > 50  # all four occur


def test_half_precision_can_hold_what_decides() -> None:
    boxes = torch.tensor([[0, 0, 1024, 1024], [0, 0, 300, 300]], dtype=torch.float16)
    assert level_of(boxes).tolist() == [3, 2]


@torch.no_grad()
def test_each_box_is_read_from_its_own_level() -> None:
    side = 512
    generator = torch.Generator().manual_seed(1)
    levels = Levels(
        *(torch.randn(1, 2, side // s, side // s, generator=generator) for s in STRIDES)
    )
    boxes = torch.tensor(
        [[40, 30, 90, 110], [10, 100, 200, 230], [0, 0, 300, 280], [0, 0, 512, 512], [-9, 3, 3, 9]]
    ).float()
    found = region_features(levels, boxes, SIZE).double().numpy()
    assert [reference_level(b) for b in boxes.numpy()] == [0, 1, 2, 3, 0]
    for place, box in enumerate(boxes.numpy()):
        level = reference_level(box)
        maps = levels[level][0].numpy()
        expected = reference_roi_align(maps, box[None], SIZE, 1 / STRIDES[level])
        assert np.abs(found[place] - expected[0]).max() < 1e-5  # float32, features of size 1
