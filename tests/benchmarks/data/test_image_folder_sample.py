from __future__ import annotations

import pytest

from samclip.benchmarks.data.image_folder import spread


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, range(10)),
        (10, range(10)),
        (99, range(10)),
        (1, [0]),
        (3, [0, 3, 6]),
        (5, [0, 2, 4, 6, 8]),
    ],
)
def test_some_items_at_equal_distances(limit: int | None, expected: list[int]) -> None:
    assert spread(range(10), limit) == tuple(expected)
