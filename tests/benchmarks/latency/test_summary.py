from __future__ import annotations

import numpy as np
import pytest

from samclip.benchmarks.latency.summary import summarise, summary_of
from samclip.benchmarks.measurements import Timing
from samclip.errors import InputError


def test_figures_are_over_all_samples_with_their_outliers() -> None:
    samples = [0.1] * 98 + [0.2, 5.0]
    found = summarise(samples, items=3)
    assert (found.n, found.min, found.max, found.median) == (100, 0.1, 5.0, 0.1)
    assert found.mean == pytest.approx(np.mean(samples))
    assert found.p99 == pytest.approx(0.2 + 0.01 * 4.8)  # rank 98.01 of 0 to 99
    assert found.std == pytest.approx(np.std(samples, ddof=1))
    assert found.variation == pytest.approx(found.std / found.mean)
    assert found.throughput == pytest.approx(3 * 100 / sum(samples))
    assert not found.is_steady


def test_one_sample_has_no_spread() -> None:
    found = summary_of(Timing(model="a", kind="task", name="x", samples=(0.5,), items=10))
    assert (found.min, found.p99, found.max, found.throughput) == (0.5, 0.5, 0.5, 20)
    assert found.std is None
    assert found.variation is None
    assert not found.is_steady


def test_equal_samples_are_steady() -> None:
    assert summarise([0.25, 0.25, 0.25]).is_steady


def test_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="no samples"):
        summarise([])
