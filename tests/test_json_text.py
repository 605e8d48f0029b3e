from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from samclip.json_text import finite, to_json, to_plain

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": NAN, "b": [INF, (-INF, 0.5)]}, {"a": None, "b": [None, [None, 0.5]]}),
        ({"a": np.float32(NAN), "b": np.float64(1), "c": np.int64(2), "d": np.bool_(True)},
         {"a": None, "b": 1.0, "c": 2, "d": True}),
        (np.array([[1.5, NAN]]), [[1.5, None]]),
        ("a\udcffb", r"a\xffb"),
        ({"\ud83d": ["\ude00"]}, {r"\ud83d": [r"\ude00"]}),
        ({np.int64(4): 1, None: 2}, {"4": 1, "null": 2}),
        (["NaN", True, 2**60, "日本 \U0001f600"], ["NaN", True, 2**60, "日本 \U0001f600"]),
    ],
)  # fmt: skip
def test_what_json_lacks_is_replaced(value: Any, expected: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = to_json(value)
    assert json.loads(text, parse_constant=refuse) == expected
    text.encode("ascii")


def test_plain_values_are_of_python() -> None:
    plain = to_plain({"a": np.float32(0.5), "b": np.arange(2)})
    assert type(plain["a"]) is float
    assert [type(number) for number in plain["b"]] == [int, int]
    assert type(finite(np.float32(1))) is float
    assert finite(np.float32("nan")) is None


def test_what_is_not_plain_is_an_error() -> None:
    with pytest.raises(TypeError):
        to_json({"a": object()})
