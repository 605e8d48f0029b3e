from __future__ import annotations

import numpy as np
import pytest

from samclip.benchmarks.statistics import (
    calibration_error,
    class_ious,
    mean,
    mean_iou,
    median,
    median_ratio,
    ratio,
)
from samclip.merge.training.teaching import expected_calibration_error


def test_a_mean_over_objects_has_the_interval_of_its_photos() -> None:
    values = np.repeat(np.random.default_rng(1).random(400), 5)  # five alike in every photo
    estimate = mean(values, np.repeat(np.arange(400), 5))
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.n, estimate.photos) == (2000, 400)
    error = values[::5].std() / 400**0.5  # of the mean of 400 independent numbers
    # 2000 draws tell the ends of the interval to some 5 %
    assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_photos_weigh_by_their_objects() -> None:
    assert mean([1, 0, 0, 0], [3, 8, 8, 8]).value == 0.25


def test_equal_values_have_no_spread_and_one_photo_none_to_tell() -> None:
    estimate = mean([0.5] * 4, [0, 0, 1, 1])
    assert (estimate.low, estimate.high) == (0.5, 0.5)
    alone = mean([0.2, 0.6], [0, 0])
    assert (alone.low, alone.value, alone.high) == pytest.approx((0.4, 0.4, 0.4))


def test_the_same_numbers_give_the_same_interval() -> None:
    values, photos = np.random.default_rng(2).random(50), np.arange(50)
    assert mean(values, photos) == mean(values, photos)


def test_a_ratio_draws_the_same_photos_for_both() -> None:
    values, photos = np.random.default_rng(3).random(60), np.arange(60)
    half = ratio(values / 2, values, photos)
    assert (half.low, half.value, half.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_ratio_to_nothing_is_no_number() -> None:
    estimate = ratio([1, 1], [0, 0], [0, 1])
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()


def test_a_ratio_leaves_out_draws_whose_base_is_nothing() -> None:
    estimate = ratio([1, 1], [1, 0], [0, 1])
    assert estimate.value == 2
    assert np.isfinite([estimate.low, estimate.high]).all()


def test_medians() -> None:
    assert median([1, 9, 2]).value == 2
    assert median_ratio([2, 4, 6], [1, 2, 3]).value == 2
    paired = median_ratio(np.arange(1, 30) * 3, np.arange(1, 30))
    assert (paired.low, paired.high) == pytest.approx((3, 3))
    wide = median(np.arange(101))
    assert wide.low < 50 < wide.high


def test_ious_of_classes_by_hand() -> None:
    sums = np.array([[4, 0, 0, 0], [8, 2, 0, 0], [6, 3, 5, 0]])  # both, truth, answer
    found = class_ious(sums)
    assert found[:2].tolist() == [0.4, 0.0]  # 4 / (8 + 6 - 4); 0 / (2 + 3)
    assert np.isnan(found[2:]).all()  # not in the truth: answered or not


def test_mean_iou_sums_photos_before_it_divides() -> None:
    first = [[4, 0], [4, 4], [8, 0]]
    second = [[0, 2], [0, 2], [0, 2]]
    estimate = mean_iou(np.array([first, second]))
    assert estimate.value == pytest.approx((4 / 8 + 2 / 6) / 2)
    assert (estimate.n, estimate.photos) == (10, 2)
    # only the first photo drawn, or only the second: 0.25 and 1.0
    assert (estimate.low, estimate.high) == pytest.approx((0.25, 1.0))


def test_a_photo_without_truth_changes_nothing() -> None:
    counted = np.array([[[3, 1], [4, 2], [4, 2]]])
    nothing = np.zeros((1, 3, 2), np.int64)
    assert mean_iou(np.concatenate([counted, nothing])).value == mean_iou(counted).value


def test_calibration_error_of_bins() -> None:
    """The same figure as the merge's, and an interval over photos."""
    generator = np.random.default_rng(4)
    shares = generator.uniform(0, 1, 300)
    correct = generator.uniform(0, 1, 300) < shares**2
    found = calibration_error(shares, correct, np.arange(300) // 5)
    assert found.value == pytest.approx(expected_calibration_error(shares, correct), abs=1e-12)
    assert (found.n, found.photos) == (300, 60)
    assert found.low < found.high
    assert calibration_error([1.0, 0.5, 0.5], [True, True, False], [0, 1, 1]).value == 0
    assert calibration_error([1.0, 1.0], [False, True], [0, 1]).value == pytest.approx(0.5)
