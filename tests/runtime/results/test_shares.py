from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samclip.runtime.results.shares import in_percent, round_shares


def test_shares_of_a_whole_add_up_to_it() -> None:
    assert round_shares([0.506, 0.257, 0.237]).tolist() == [50, 26, 24]  # 51, 26, 24 one by one
    assert round_shares([0.335, 0.335, 0.33]).tolist() == [34, 33, 33]
    assert round_shares([1 / 3] * 3, 1000).tolist() == [334, 333, 333]
    assert round_shares([0.3, 0.2]).tolist() == [30, 20]  # a half has no name
    assert round_shares([0.295, 0.2949]).tolist() == [30, 29]
    assert round_shares([]).tolist() == []
    assert round_shares([1.0, 0.0]).tolist() == [100, 0]


def test_text_in_percent() -> None:
    rows = in_percent([("a", 0.506), ("b", 0.257), ("c", 0.237)])
    assert [text for _, _, text in rows] == ["50%", "26%", "24%"]
    assert in_percent([("a", 0.1234)], 1) == [("a", 0.1234, "12.3%")]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50), st.sampled_from([100, 1000]))
def test_rounding_keeps_sum_order_and_distance(areas: list[int], parts: int) -> None:
    shares = np.asarray(areas, np.float32) / np.float32(max(1, sum(areas)))
    rounded = round_shares(shares, parts)
    assert rounded.sum() == (parts if sum(areas) else 0)
    assert np.abs(rounded - shares.astype(float) * parts).max() < 1.001
    order = np.argsort(-shares, kind="stable")
    assert (np.diff(rounded[order]) <= 0).all() or pytest.approx(0) == np.diff(shares).min()
