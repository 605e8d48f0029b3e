"""Examples mixed into texts: against the formula in float64, and what it keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.runtime.text.examples import (
    HALF,
    SIMILAR,
    WEIGHT,
    Examples,
    find_examples_fault,
    weigh,
)

# float32 vectors of 64 dimensions against the formula in float64.
TOLERANCE = 2e-6


def rows(count: int, width: int = 64, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


@pytest.fixture
def examples() -> Examples:
    """Three names of four texts, in a space whose pictures share a direction; the last has none."""
    common = rows(1, seed=9)[0] * 3
    shown = np.stack([unit(each + common) for each in rows(5, seed=1).astype(np.float64)])
    none = Examples.none(rows(4), 3, "pictures")
    sums = np.zeros((3, 64), np.float32)
    sums[0], sums[1] = shown[0], shown[1:].sum(axis=0)
    counts = np.asarray([1, 4, 0])
    return none.add(sums, counts, shown.sum(axis=0).astype(np.float32), 5)


def test_the_mix_is_the_formula(examples: Examples) -> None:
    common = unit(examples.centre.astype(np.float64))
    mixed = examples.mix(np.asarray([0, 1, 3]))  # the second name has two texts
    for row, name in ((0, 0), (1, 1), (2, 1)):
        count = int(examples.counts[name])
        weight = WEIGHT * count / (count + HALF)
        text = examples.texts[row].astype(np.float64)
        mean = examples.sums[name].astype(np.float64) / count
        rest, shown = text - text @ common * common, mean - mean @ common * common
        turned = (1 - weight) * unit(rest) + weight * unit(shown)
        factor = np.linalg.norm(rest) / np.linalg.norm(turned)
        lowered = weight * factor * SIMILAR * np.linalg.norm(shown) / (mean @ common)
        expected = unit((text @ common - lowered) * common + factor * turned)
        np.testing.assert_allclose(mixed[row], expected, atol=TOLERANCE)
    np.testing.assert_array_equal(mixed[3], examples.texts[3])
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=TOLERANCE)


def test_scores_rise_above_a_similarity_and_fall_below() -> None:
    """Of a text that says nothing of the example, and pictures more and less like it."""
    text, shown, other, common = np.eye(4, dtype=np.float32)
    example = 0.8 * common + 0.6 * shown
    given = Examples(text[None], example[None], np.asarray([1]), common, 1, "")
    (mixed,) = given.mix(None)
    for similarity in (0.0, 0.5 * SIMILAR, 1.5 * SIMILAR, 1.0):
        like = similarity * shown + np.sqrt(1 - similarity**2) * other
        picture = 0.8 * common + 0.6 * like
        assert (mixed @ picture > text @ picture) == (similarity > SIMILAR)
    even = 0.8 * common + 0.6 * (SIMILAR * shown + np.sqrt(1 - SIMILAR**2) * other)
    assert mixed @ even == pytest.approx(0, abs=TOLERANCE)


def test_more_examples_weigh_more_and_never_all() -> None:
    weights = weigh(np.asarray([0, 1, 4, 16, 10**9]))
    assert weights[0] == 0
    assert (np.diff(weights) > 0).all()
    assert weights[-1] == pytest.approx(WEIGHT, rel=1e-6) and weights[-1] < 1
    assert weigh(np.asarray([int(HALF)]))[0] == pytest.approx(WEIGHT / 2)


def test_examples_one_by_one_are_those_at_once(examples: Examples) -> None:
    parts = Examples.none(examples.texts, 3, "pictures")
    for share in (0.25, 0.75):
        parts = parts.add(
            examples.sums * np.float32(share),
            (examples.counts * share).astype(np.int64),
            examples.centre * np.float32(share),
            0,
        )
    np.testing.assert_allclose(parts.sums, examples.sums, atol=TOLERANCE)
    np.testing.assert_allclose(parts.centre, examples.centre, atol=TOLERANCE)
    assert parts.counts.tolist() == [0, 4, 0]  # whole numbers of quarters


@pytest.mark.parametrize("shown", ["the common direction", "the opposite of the text", "zeros"])
def test_examples_without_a_direction_leave_the_text(shown: str) -> None:
    text, common = np.eye(3, dtype=np.float32)[:1], np.eye(3, dtype=np.float32)[1]
    count = int(HALF) * 10**8 if shown == "the opposite of the text" else 1
    kinds = {"the common direction": common, "the opposite of the text": -text[0]}
    sums = (kinds.get(shown, np.zeros(3, np.float32)) * count)[None].astype(np.float32)
    given = Examples(text, sums, np.asarray([count]), common, 1, "")
    mixed = given.mix(None)
    assert np.isfinite(mixed).all()
    assert np.linalg.norm(mixed) == pytest.approx(1)
    if shown != "the opposite of the text":
        np.testing.assert_array_equal(mixed, text)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("texts", np.zeros((3, 64), np.float32), "texts"),
        ("texts", np.zeros((4, 64), np.float32), "length 1"),
        ("sums", np.zeros((3, 64), np.float64), "sums"),
        ("sums", np.full((3, 64), np.nan, np.float32), "finite"),
        ("sums", np.full((3, 64), 7, np.float32), "no longer than"),
        ("counts", np.asarray([1, 4, -1]), "0 to"),
        ("counts", np.asarray([1.0, 4.0, 0.0]), "counts"),
        ("centre", np.full(64, np.inf, np.float32), "finite"),
        ("centre", None, "centre"),
        ("photos", 0, "photos"),
        ("photos", 2.5, "photos"),
    ],
)
def test_faults_are_found(examples: Examples, field: str, value: Any, reason: str) -> None:
    assert find_examples_fault(examples, 3, 4, 64) == ""
    assert reason in find_examples_fault(replace(examples, **{field: value}), 3, 4, 64)
