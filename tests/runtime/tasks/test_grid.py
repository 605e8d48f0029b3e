from __future__ import annotations

import numpy as np
import pytest

from samclip.runtime.tasks.grid import generate_crops, point_grid


def test_points_lie_at_cell_centres_row_by_row() -> None:
    expected = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    np.testing.assert_allclose(point_grid(2), expected, atol=1e-12)
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def test_crops_are_segment_anythings() -> None:
    """Worked out from `generate_crop_boxes` for a 300x400 image and its default overlap."""
    crops = generate_crops((300, 400), 1, 512 / 1500)
    assert [crop.box for crop in crops] == [
        (0, 0, 400, 300),
        (0, 0, 251, 201),
        (0, 99, 251, 300),
        (149, 0, 400, 201),
        (149, 99, 400, 300),
    ]
    assert [crop.layer for crop in crops] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (500, 20)])
def test_crops_of_any_image_hold_pixels_and_cover_it(size: tuple[int, int]) -> None:
    covered = np.zeros(size, int)
    for crop in generate_crops(size, 2, 512 / 1500):
        assert crop.area > 0
        covered[crop.rows_columns] |= 1 << crop.layer
    assert (covered == 0b111).all()
