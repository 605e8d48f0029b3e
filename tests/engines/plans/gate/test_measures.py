"""The measures of the gate, by arrays whose agreement is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.engines.plans.gate.cases import NOISE, Case
from samclip.engines.plans.gate.measures import Tally, measure, measure_masks, rows_of

RANDOM = np.random.default_rng(1)
MAP = RANDOM.normal(size=(1, 64, 8, 8)).astype(np.float32)


def failures(precision: str, found: NDArray[np.float32], case: str = "a photo") -> set[str]:
    tally = Tally(precision)
    tally.add("alone", Case(case, {}, {"y": MAP}), {"y": found})
    return {row.measure for row in tally.rows() if not row.passed}


def departed(share: float) -> NDArray[np.float32]:
    """The map with an error of this share of its length, across it: a cosine of 1 - share² / 2."""
    across = RANDOM.normal(size=MAP.shape).astype(np.float32)
    ours = MAP / np.linalg.norm(MAP, axis=1, keepdims=True)
    across -= ours * (across * ours).sum(axis=1, keepdims=True)
    across *= np.linalg.norm(MAP, axis=1, keepdims=True) / np.linalg.norm(
        across, axis=1, keepdims=True
    )
    return MAP + share * across


@pytest.mark.parametrize(
    ("share", "failing"),
    [
        (0.01, set()),  # a cosine of 0.99995
        (0.02, {"fp32"}),  # 0.9998
        (0.04, {"fp32", "fp16"}),  # 0.9992
        (0.08, {"fp32", "fp16", "bf16"}),  # 0.9968
        (0.12, {"fp32", "fp16", "bf16", "int8", "int8_fp16"}),  # 0.9929
    ],
)
def test_each_precision_has_its_limit(share: float, failing: set[str]) -> None:
    found = departed(share)
    precisions = ("fp32", "fp16", "bf16", "int8", "int8_fp16")
    assert {one for one in precisions if "cosine" in failures(one, found)} == failing


def test_noise_may_depart_ten_times_as_far() -> None:
    assert failures("fp16", departed(0.09), NOISE) == set()
    assert failures("fp16", departed(0.11), NOISE) == {"noise_cosine"}


def test_one_wrong_place_of_many_fails_in_fp32() -> None:
    found = MAP.copy()
    found[0, :, 3, 4] *= -1
    assert "cosine_worst" in failures("fp32", found)
    faint = MAP.copy()
    faint[0, :, 3, 4] *= 1e-6
    other = faint.copy()
    other[0, :, 3, 4] *= -1  # too short to have a direction
    assert measure("y", faint, other)["cosine_worst"] == pytest.approx(1)


def test_longer_answers_wrong_shapes_and_nan_fail() -> None:
    assert failures("fp16", MAP * 1.05) == {"magnitude"}
    assert failures("fp32", MAP[:, :32]) == {"cosine", "magnitude", "finite"}
    found = MAP.copy()
    found[0, 0, 0, 0] = np.nan
    assert failures("int8", found) == {"cosine", "magnitude", "finite"}


def test_the_rows_of_an_output_are_its_places() -> None:
    assert rows_of("image_embeddings", MAP).shape == (64, 64)
    np.testing.assert_array_equal(rows_of("image_embeddings", MAP)[9], MAP[0, :, 1, 1])
    assert rows_of("low_res_masks", MAP).shape == (64, 64)
    np.testing.assert_array_equal(rows_of("low_res_masks", MAP)[9], MAP[0, 9].reshape(-1))
    assert rows_of("iou_predictions", np.zeros((3, 4), np.float32)).shape == (1, 12)
    assert rows_of("text_embeddings", np.zeros((3, 384), np.float32)).shape == (3, 384)


def test_masks_are_compared_where_fp32_is_sure() -> None:
    logits = np.full((2, 4, 32, 32), -9, np.float32)
    logits[:, 1, :16] = 9  # 512 pixels, the best of the first prompt
    logits[:, 2, 0, :9] = 9  # the best of the second: too small
    scores = np.asarray([[0, 1, 0, 0], [0, 0, 1, 0]], np.float32)
    found = logits.copy()
    found[0, 1, 15] = -9  # 480 of them
    found[1] = -9
    assert measure_masks(logits, found, scores) == {
        "mask_iou": pytest.approx(0.9375),
        "mask_iou_worst": pytest.approx(0.9375),
    }
    assert measure_masks(logits[1:], found[1:], scores[1:]) == {}
