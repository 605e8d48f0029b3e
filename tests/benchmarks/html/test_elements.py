"""Figures and scales."""

from __future__ import annotations

import pytest

from samclip.benchmarks.formats import digits, large, percent, seconds
from samclip.benchmarks.html.elements import SECONDS, el, to_html
from samclip.benchmarks.html.plots import ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.2345, "1.23"), (12.345, "12.3"), (1234.5, "1,234"),
     (float("nan"), "-")],
)  # fmt: skip
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_units() -> None:
    assert [seconds(v) for v in (0.00042, 0.4123, 1.5, 75.0)] == [
        "0.420 ms", "412 ms", "1.50 s", "75.0 s"
    ]  # fmt: skip
    assert [percent(v) for v in (0, 0.0001, 0.034, 0.56)] == ["0 %", "< 0.1 %", "3.4 %", "56 %"]
    assert [large(v) for v in (972e9, 10.7e6, 12.0)] == ["972 G", "10.7 M", "12.0"]


def test_a_scale_keeps_one_unit() -> None:
    assert [SECONDS.tick(v, 15.0) for v in (0.0, 5.0, 12.5)] == ["0 s", "5 s", "12.5 s"]
    assert [SECONDS.tick(v, 0.4) for v in (0.0, 0.2)] == ["0 ms", "200 ms"]


@pytest.mark.parametrize(
    ("high", "expected"),
    [(1.0, [0.0, 0.25, 0.5, 0.75, 1.0]), (37.0, [0.0, 10.0, 20.0, 30.0]), (0.0, [0.0])],
)
def test_ticks_are_round(high: float, expected: list[float]) -> None:
    assert ticks(0.0, high) == pytest.approx(expected)


def test_elements_escape_texts_and_attributes() -> None:
    made = to_html(el("p", "a < b & c", el("b", "x"), "tail", title='"', class_="note", id=None))
    assert made == (
        '<!DOCTYPE html>\n<p title="&quot;" class="note">a &lt; b &amp; c<b>x</b>tail</p>\n'
    )
