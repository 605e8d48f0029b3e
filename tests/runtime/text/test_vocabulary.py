from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from samclip.errors import UntrainedHeadWarning, VocabularyError
from samclip.runtime.text.examples import Examples
from samclip.runtime.text.names import as_names, gather_texts, index_of, mark_seen
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows, warn_untrained

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


def test_the_best_synonym_speaks_for_its_name() -> None:
    rows = unit_rows(np.array([[1, 0], [1, 1], [0, 1]], np.float32))
    pair = Vocabulary(("a", "b"), rows, 10.0, True, first_rows=np.array([0, 2]))
    east, both, north = np.eye(2, dtype=np.float32)[0], np.ones(2, np.float32), np.float32([0, 1])
    found = pair.cosines(np.stack([east, both, north]))
    np.testing.assert_allclose(found, [[1, 0], [1, 0.5**0.5], [0.5**0.5, 1]], atol=1e-6)
    columns = pair.best_synonyms(np.float32([[1, 2], [3, 0], [-1, -2]]), axis=0)
    assert columns.tolist() == [[3, 2], [-1, -2]]
    scores = np.float32([[1, 2, 3]])
    assert EYE.best_synonyms(scores) is scores  # one text a name: nothing to choose


def test_texts_are_each_name_before_its_synonyms() -> None:
    texts, first_rows = gather_texts(("a", "b", "a"), {"a": ["x", "y"]})
    assert texts == ("a", "x", "y", "b", "a", "x", "y")
    assert first_rows is not None
    assert first_rows.tolist() == [0, 3, 4]
    assert gather_texts(("a", "b"), None) == (("a", "b"), None)
    assert gather_texts(("a", "b"), {}) == (("a", "b"), None)


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ({"dog": ["x"]}, "did you mean 'dgo'"),
        ({"cat": "kitty"}, r"synonyms of 'cat' must be a list; got one str"),
        ({"cat": [3]}, "must be str"),
        ({"cat": 3}, "got int"),
        (["cat"], "must be a mapping"),
    ],
)
def test_synonyms_of_the_wrong_kind_are_refused(synonyms: Any, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        gather_texts(("cat", "dgo"), synonyms)


def test_seen_names_are_marked() -> None:
    for given, expected in ((["b"], [False, True]), ([], [False, False]), ("ba", [True, True])):
        marked = mark_seen(("a", "b"), list(given))
        assert marked is not None
        assert marked.tolist() == expected
    assert mark_seen(("a", "b"), None) is None
    with pytest.raises(VocabularyError, match="'c', which is not among the 2 names"):
        mark_seen(("a", "b"), ["a", "c"])
    with pytest.raises(VocabularyError, match="got one str"):
        mark_seen(("a", "b"), "ab")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.eye(3)}, "float32 array of shape .*they are float64"),
        ({"embeddings": [[1, 0, 0]]}, "they are list"),
        ({"embeddings": np.ones(3, np.float32)}, "they are float32 .3,."),
        ({"embeddings": np.eye(3, 2, dtype=np.float32)}, "have 2 dimensions, .* text space 3"),
        ({"embeddings": np.eye(4, 3, dtype=np.float32)}, "length 1"),
        ({"embeddings": np.eye(3, dtype=np.float32)[:2]}, "2 embeddings for 3 names"),
        ({"embeddings": 2 * np.eye(3, dtype=np.float32)}, "length 1"),
        ({"embeddings": np.full((3, 3), np.nan, np.float32)}, "finite"),
        ({"embeddings": np.full((3, 3), 1e30, np.float32)}, "finite"),
        ({"embeddings": np.zeros((0, 3), np.float32)}, "0 embeddings for 3 names"),
        ({"names": ["a", "b", "c"]}, "tuple"),
        ({"names": ("a", "b", 3)}, "tuple of one str"),
        ({"names": ()}, "one str or more"),
        ({"first_rows": np.array([0, 1])}, r"the shape \(2,\), expected \(3,\)"),
        ({"first_rows": np.array([1, 2, 3])}, "rise from 0"),
        ({"first_rows": np.array([0, 2, 1])}, "rise from 0"),
        ({"first_rows": np.array([0, 1, 3])}, "rise from 0"),
        ({"first_rows": np.array([0.0, 1, 2])}, "whole numbers"),
        ({"first_rows": [0, 1, 2]}, "array of whole numbers"),
        ({"seen": np.array([True])}, "3 bool"),
        ({"seen": np.array([1, 0, 1])}, "3 bool"),
        ({"logit_scale": float("nan")}, "logit_scale"),
        ({"logit_scale": 1e308}, "logit_scale"),
        ({"logit_scale": 0}, "logit_scale"),
        ({"logit_scale": "10"}, "logit_scale"),
        ({"space": "1" * 64}, "space 111111111111, and the model's is 000000000000"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        replace(EYE, **change).check("0" * 64, 3)


def test_a_vocabulary_that_fits_is_taken() -> None:
    halves = unit_rows(np.random.default_rng(0).random((5, 3), np.float32)).astype(np.float16)
    many = replace(EYE, embeddings=halves.astype(np.float32), first_rows=np.array([0, 2, 3]))
    for fitting in (EYE, many, replace(EYE, space="0" * 64, seen=np.array([True, False, True]))):
        fitting.check("0" * 64, 3)


def test_more_texts_than_a_vocabulary_may_have() -> None:
    with pytest.raises(VocabularyError, match="more than the 50,000 texts"):
        as_names(itertools.repeat("cat"))  # type: ignore[arg-type]
    with pytest.raises(VocabularyError, match="200,000 texts, and a vocabulary may have 50,000"):
        gather_texts(["cat"] * 10, {"cat": ["kitty"] * 19_999})
    assert as_names(np.array(["cat"])) == ("cat",)  # type: ignore[arg-type]
    assert type(as_names(np.array(["cat"]))[0]) is str  # type: ignore[arg-type]


def test_errors_of_the_callers_generator_pass() -> None:
    def names() -> Iterator[str]:
        yield "cat"
        raise TypeError("of the caller")

    with pytest.raises(TypeError, match="of the caller"):
        as_names(names())  # type: ignore[arg-type]


def test_some_names_keep_their_texts_and_examples_in_the_order_asked_for() -> None:
    rng = np.random.default_rng(5)
    texts = unit_rows(rng.normal(size=(5, 8)).astype(np.float32))
    rows = np.array([0, 2, 3])
    sums = unit_rows(np.abs(rng.normal(size=(3, 8))).astype(np.float32))
    centre = unit_rows(np.ones((1, 8), np.float32))[0]
    shown = Examples(texts, sums, np.array([1, 0, 1]), centre, 1, "pictures")
    whole = Vocabulary(("a", "b", "c"), texts, 10.0, True, rows, np.array([True, False, False]))
    whole = whole.with_examples(shown)
    chosen = whole.select(["c", "a"])
    assert chosen.names == ("c", "a")
    np.testing.assert_array_equal(chosen.embeddings, whole.embeddings[[3, 4, 0, 1]])
    assert chosen.first_rows is not None and chosen.first_rows.tolist() == [0, 2]
    assert chosen.seen is not None and chosen.seen.tolist() == [False, True]
    assert chosen.examples is not None
    mixed = chosen.with_examples(chosen.examples)  # mixed from what was kept: the same bits
    np.testing.assert_array_equal(mixed.embeddings, chosen.embeddings)
    assert not np.array_equal(chosen.embeddings[0], texts[3])
    chosen.check("", 8)
    np.testing.assert_array_equal(EYE.select(["b"]).embeddings, EYE.embeddings[1:2])
    assert whole.select(["a", "a"]).names == ("a", "a")  # as names that are embedded
    for names in (["d"], []):
        with pytest.raises(VocabularyError):
            whole.select(names)
