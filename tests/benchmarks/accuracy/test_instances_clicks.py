from __future__ import annotations

import numpy as np
import pytest
from made_data import disc, rectangle

from samclip.benchmarks.accuracy.instances import correction, interior_point


@pytest.mark.parametrize(
    ("mask", "point"),
    [
        (rectangle(10, 20, 21, 61), (15.5, 25.5)),  # 11 wide: 5 rows in from the top
        (rectangle(0, 0, 256, 256), (127.5, 127.5)),  # the photo's border is an outline
        (rectangle(7, 9, 8, 10), (7.5, 9.5)),
        (disc(60.5, 80.5, 20) & ~rectangle(0, 0, 61, 256), (70.5, 80.5)),
    ],
)
def test_the_most_interior_point(mask: np.ndarray, point: tuple[float, float]) -> None:
    x, y = interior_point(mask)
    assert mask[int(y), int(x)]
    assert (x, y) == pytest.approx(point, abs=2)  # pixels: near the middle many are as far inside


def test_what_is_missed_is_clicked_as_foreground() -> None:
    truth = rectangle(0, 0, 100, 40)
    click = correction(rectangle(0, 0, 50, 40), truth)
    assert click is not None
    assert click.label == 1
    assert click.point[0] == pytest.approx(75, abs=7)  # 20 px from each long side, anywhere between
    assert click.point[1] == pytest.approx(20, abs=1)


def test_what_is_too_much_is_clicked_as_background() -> None:
    truth = rectangle(0, 0, 50, 40)
    mask = rectangle(2, 0, 130, 40)  # misses 2 columns, has 80 too many
    click = correction(mask, truth)
    assert click is not None
    assert click.label == 0
    x, y = click.point
    assert mask[int(y), int(x)]
    assert not truth[int(y), int(x)]
    assert y == pytest.approx(20, abs=1)


def test_the_deepest_region_counts_not_the_largest() -> None:
    truth = rectangle(0, 0, 256, 4) | disc(128, 128, 15)  # 1,024 pixels and 709
    click = correction(np.zeros_like(truth), truth)
    assert click is not None
    assert click.point == pytest.approx((128, 128), abs=1)


def test_what_is_right_is_not_clicked() -> None:
    truth = disc(50, 60, 20)
    assert correction(truth, truth) is None
