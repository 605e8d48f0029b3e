from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from samclip.errors import UntrainedHeadWarning, VocabularyError
from samclip.runtime.texts.vocabulary import (
    Vocabulary,
    as_names,
    index_of,
    unit_rows,
    warn_untrained,
)

EYE = Vocabulary(("a", "b", "c"), np.eye(3, dtype=np.float32), 10.0, True)


def test_cosines_do_not_depend_on_length() -> None:
    vectors = np.array([[3, 4, 0], [0, 0, 1e-6]], np.float32)
    np.testing.assert_allclose(EYE.cosines(vectors), [[0.6, 0.8, 0], [0, 0, 1]], atol=1e-6)
    assert EYE.cosines(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]


def test_probabilities_are_a_softmax_of_scaled_cosines() -> None:
    cosines = np.array([[0.6, 0.8, 0.0]], np.float32)
    powers = np.exp(10 * cosines.astype(np.float64))
    np.testing.assert_allclose(EYE.probabilities(cosines), powers / powers.sum(), rtol=1e-5)
    large = Vocabulary(EYE.names, EYE.embeddings, 1e4, True)
    assert large.probabilities(cosines).tolist() == [[0, 1, 0]]


def test_unit_rows_keep_zeros() -> None:
    np.testing.assert_allclose(
        unit_rows(np.array([[0, 5.0], [0, 0]], np.float32)), [[0, 1], [0, 0]], atol=1e-7
    )


@pytest.mark.parametrize("names", ["cat", [], 5, [1, 2], ["a", None], [b"a"]])
def test_what_are_no_names(names: Any) -> None:
    with pytest.raises(VocabularyError):
        as_names(names)


def test_names_may_come_from_any_iterable() -> None:
    assert as_names(name for name in ("a", "b")) == ("a", "b")  # type: ignore[arg-type]


def test_an_unknown_name_meets_a_suggestion() -> None:
    assert index_of("b", EYE.names) == 1
    with pytest.raises(VocabularyError, match="did you mean 'pavement'"):
        index_of("pavemnt", ("road", "pavement"))


def test_the_untrained_head_warns_on_every_use() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # Python's own rule: once per place
        for _ in range(3):
            warn_untrained("tiny")
    assert [warning.category for warning in caught] == [UntrainedHeadWarning] * 3
    assert [warning.filename for warning in caught] == [__file__] * 3


def test_who_asks_for_silence_gets_it(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)
        warn_untrained("tiny")
    assert capfd.readouterr() == ("", "")
