from __future__ import annotations

import logging
import threading
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.engines.steps import ExportBundle
from samclip.errors import (
    BundleError,
    CapabilityError,
    ClosedError,
    EngineRunError,
    VocabularyError,
)
from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.runtime.text import text_space as text
from samclip.runtime.text.templates import SIMPLE_IMAGENET_TEMPLATES, fill
from samclip.runtime.text.text_cache import TextCache
from samclip.runtime.text.text_space import MEMORY_ROWS, PROMPTS_PER_BATCH, TextSpace
from samclip.runtime.text.tokenizer import Tokenizer

D = 24
OWN = ("a photo of a {}.", "the {}")
TABLE = np.random.default_rng(0).standard_normal((49408, D)).astype(np.float32)


class Encoder:
    """A text encoder that sums a random row per token, weighted by its place; counts its use."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.batches.append(len(tokens))
        weights = (np.arange(1, 78) * (tokens > 0)).astype(np.float32)
        return np.einsum("nl,nld->nd", weights, TABLE[tokens])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bytes(clip_tokenizer_json(), 77)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def space(encoder: Encoder, tokenizer: Tokenizer) -> TextSpace:
    return TextSpace(encoder, tokenizer, "space", D, OWN)


def labels_only(labels: Mapping[str, NDArray[np.float32]]) -> TextSpace:
    return TextSpace(None, None, "space", D, OWN, precomputed=labels)


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector / np.linalg.norm(vector)


def zero_shot(tokenizer: Tokenizer, name: str, templates: tuple[str, ...]) -> NDArray[np.float32]:
    """CLIP's recipe, one prompt at a time."""
    encode = Encoder()
    prompts = [unit(encode(tokenizer([fill(t, name)]))[0]) for t in templates]
    return unit(np.mean(prompts, axis=0))


@pytest.mark.parametrize("templates", [None, "simple", "none", "openai", ["one {}"], "only {}"])
def test_embeddings_follow_clips_recipe(
    space: TextSpace, tokenizer: Tokenizer, templates: object
) -> None:
    known = {
        None: OWN,
        "simple": SIMPLE_IMAGENET_TEMPLATES,
        "none": ("{}",),
        "only {}": ("only {}",),
    }
    names = ["cat", "a dog", "naïve café"]
    rows = space.embed(names, templates)  # type: ignore[arg-type]
    assert rows.shape == (3, D)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    chosen = known.get(templates if isinstance(templates, str | None) else "")
    if chosen:
        expected = [zero_shot(tokenizer, name, chosen) for name in names]
        assert np.allclose(rows, expected, atol=1e-6)


def test_duplicates_are_equal_and_computed_once(space: TextSpace, encoder: Encoder) -> None:
    rows = space.embed(["cat", "dog", "cat"])
    assert np.array_equal(rows[0], rows[2])
    assert not np.allclose(rows[0], rows[1])
    assert sum(encoder.batches) == 2 * len(OWN)


def test_memory_serves_names_again_but_not_under_other_templates(
    space: TextSpace, encoder: Encoder
) -> None:
    first = space.embed(["cat", "dog"])
    assert np.array_equal(space.embed(["dog", "cat"]), first[::-1])
    assert len(encoder.batches) == 1
    assert not np.allclose(space.embed(["cat"], "none"), first[:1], atol=1e-3)
    assert len(encoder.batches) == 2


def test_answers_are_the_callers_own(space: TextSpace) -> None:
    first = space.embed(["cat"])
    first[:] = 0
    assert np.linalg.norm(space.embed(["cat"])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", "list"),
        ([], "empty"),
        ((), "empty"),
        (["cat", ""], "name 1 is blank"),
        ([" \t"], "name 0 is blank"),
        (["\x00"], "name 0 is blank"),
        (["cat", "\u200b\u202e"], "name 1 is blank"),
        (["&nbsp;"], "blank once cleaned"),
        ([3], "must be str"),
        ([b"cat"], "must be str"),
        (None, "must be a list"),
        (7, "must be a list"),
        (["a\ud800"], "surrogate"),
    ],
)
def test_unusable_names_are_refused(space: TextSpace, names: object, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        space.embed(names)  # type: ignore[arg-type]


@pytest.mark.parametrize("templates", [[], ["no place"], "simpel", ""])
def test_unusable_templates_are_refused(space: TextSpace, templates: object) -> None:
    with pytest.raises(VocabularyError):
        space.embed(["cat"], templates)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["\U0001f469\u200d\U0001f467", "中文", "x" * 60, "{}", "<|endoftext|>", "\ud83d\ude00"],
)
def test_odd_names_have_vectors(space: TextSpace, name: str) -> None:
    assert np.linalg.norm(space.embed([name])[0]) == pytest.approx(1, abs=1e-6)


def test_batches_are_bounded(space: TextSpace, encoder: Encoder) -> None:
    space.embed([f"n{i}" for i in range(100)], "none")
    space.embed(["cat"], "openai")
    assert max(encoder.batches) == PROMPTS_PER_BATCH
    assert encoder.batches == [64, 36, 64, 16]


def test_ten_thousand_names_in_bounded_memory(space: TextSpace, encoder: Encoder) -> None:
    names = [f"name {number}" for number in range(10_000)]
    space.embed(names[:1], "none")
    tracemalloc.start()
    rows = space.embed(names, "none")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape == (10_000, D)
    assert max(encoder.batches) <= PROMPTS_PER_BATCH
    assert peak < 30e6  # 10,000 vectors of 24 floats are 1 MB; the rest is keys, dicts, one batch
    calls = len(encoder.batches)
    assert np.array_equal(space.embed(names, "none"), rows)
    assert len(encoder.batches) == calls  # MEMORY_ROWS holds them all
    assert len(names) < MEMORY_ROWS


def test_memory_keeps_the_last_used(
    encoder: Encoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MEMORY_ROWS", 3)
    space = TextSpace(encoder, tokenizer, "space", D, OWN)
    for names in (["a"], ["b"], ["c"], ["a"], ["d"]):
        space.embed(names)
    assert len(encoder.batches) == 4
    space.embed(["a", "c", "d"])  # b went
    assert len(encoder.batches) == 4
    space.embed([f"n{i}" for i in range(9)])  # more than memory holds: still answered
    space.embed(["b"])
    assert len(encoder.batches) == 6


def test_disk_serves_the_next_process(
    tmp_path: Path, encoder: Encoder, tokenizer: Tokenizer
) -> None:
    spaces = [
        TextSpace(encoder, tokenizer, "space", D, OWN, cache=TextCache(tmp_path)) for _ in range(2)
    ]
    first = spaces[0].embed(["cat", "dog"])
    assert np.array_equal(spaces[1].embed(["dog", "cat"]), first[::-1])
    assert len(encoder.batches) == 1
    other = TextSpace(encoder, tokenizer, "another space", D, OWN, cache=TextCache(tmp_path))
    other.embed(["cat"])
    assert len(encoder.batches) == 2


def test_a_vector_of_another_size_on_disk_is_not_used(
    tmp_path: Path, encoder: Encoder, tokenizer: Tokenizer
) -> None:
    cache = TextCache(tmp_path)
    cache.put(
        {key: np.ones(D + 1, np.float32) for key in text.embedding_keys("space", OWN, ["cat"])}
    )
    space = TextSpace(encoder, tokenizer, "space", D, OWN, cache=cache)
    assert space.embed(["cat"]).shape == (1, D)
    assert len(encoder.batches) == 1


def test_a_broken_disk_cache_costs_no_answer(
    tmp_path: Path, encoder: Encoder, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = TextCache(tmp_path / "file")
    with_cache = TextSpace(encoder, tokenizer, "space", D, OWN, cache=cache)
    without = TextSpace(encoder, tokenizer, "space", D, OWN)
    with caplog.at_level(logging.WARNING, "samclip"):
        assert np.array_equal(with_cache.embed(["a", "b"]), without.embed(["a", "b"]))
        with_cache.embed(["c"])
    assert len(caplog.records) == 1


def test_ready_made_labels_need_no_encoder() -> None:
    labels = {"cat": TABLE[1], "traffic light": 5 * TABLE[2]}
    space = labels_only(labels)
    rows = space.embed(["traffic light", "cat", "cat"])
    assert np.allclose(rows, [unit(TABLE[2]), unit(TABLE[1]), unit(TABLE[1])], atol=1e-6)
    assert np.array_equal(space.embed(["cat"], list(OWN)), rows[1:2])
    assert np.array_equal(space.embed([" Traffic  LIGHT"]), rows[:1])  # equal once cleaned


def test_ready_made_labels_come_before_the_encoder(encoder: Encoder, tokenizer: Tokenizer) -> None:
    space = TextSpace(encoder, tokenizer, "space", D, OWN, {"cat": TABLE[1]})
    assert np.allclose(space.embed(["cat", "dog"])[0], unit(TABLE[1]), atol=1e-6)
    assert encoder.batches == [len(OWN)]
    assert not np.allclose(space.embed(["cat"], "none")[0], unit(TABLE[1]), atol=1e-3)


def test_unknown_names_without_an_encoder_are_listed() -> None:
    space = labels_only({"cat": TABLE[1], "dog": TABLE[2]})
    with pytest.raises(
        CapabilityError, match=r"'cta' \(did you mean 'cat'\?\).*with a text encoder"
    ) as caught:
        space.embed(["cat", "cta"])
    either = (ExportBundle((("text_checkpoint", None),)), ExportBundle((("vocabulary", None),)))
    assert caught.value.steps == either
    with pytest.raises(CapabilityError, match=r"'n4' and 5 more; .*names as vocabulary"):
        space.embed([f"n{i}" for i in range(10)])
    with pytest.raises(CapabilityError, match="its own templates"):
        space.embed(["cat"], "none")
    with pytest.raises(CapabilityError, match="neither a text encoder nor"):
        labels_only({}).embed(["cat"])


@pytest.mark.parametrize(
    "vector",
    [np.ones(D + 1), np.ones((1, D)), np.full(D, np.nan), np.zeros(D)],
)
def test_unusable_ready_made_vectors_are_refused(vector: NDArray[np.float64]) -> None:
    with pytest.raises(BundleError, match="vector of 'cat'"):
        labels_only({"cat": vector.astype(np.float32)})


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.ones((2, D + 1)), "expected"),
        (np.ones((1, D)), "expected"),
        (np.full((2, D), np.nan), "finite"),
        (np.zeros((2, D)), "zero"),
        (np.stack([np.ones(D), -np.ones(D)]), "zero"),  # prompts that cancel out
        (np.full((2, D), np.inf), "finite"),
        (np.full((2, D), 1e30), "range"),
        (np.full((2, D), 1e-30), "zeros"),
    ],
)
def test_unusable_encoder_output_is_an_error_and_not_kept(
    tmp_path: Path, tokenizer: Tokenizer, output: NDArray[np.float64], message: str
) -> None:
    cache = TextCache(tmp_path)
    broken = TextSpace(lambda _: output.astype(np.float32), tokenizer, "s", D, OWN, cache=cache)
    with pytest.raises(EngineRunError, match=f"graph 'text_encoder'.*{message}"):
        broken.embed(["cat"])
    assert cache.get(text.embedding_keys("s", OWN, ["cat"])) == {}


@pytest.mark.parametrize("value", [np.nan, 0.0, 2.0])
def test_a_vector_on_disk_that_is_not_of_unit_length_is_computed_again(
    tmp_path: Path, encoder: Encoder, tokenizer: Tokenizer, value: float
) -> None:
    cache = TextCache(tmp_path)
    (key,) = text.embedding_keys("space", OWN, ["cat"])
    cache.put({key: np.full(D, value, np.float32)})
    space = TextSpace(encoder, tokenizer, "space", D, OWN, cache=cache)
    np.testing.assert_allclose(space.embed(["cat"])[0], zero_shot(tokenizer, "cat", OWN), atol=1e-6)
    assert np.linalg.norm(cache.get([key])[key]) == pytest.approx(1)


def test_too_many_texts_are_refused(space: TextSpace, encoder: Encoder) -> None:
    with pytest.raises(VocabularyError, match=r"50,000 names in 81 templates each are more than"):
        space.embed(["cat"] * 50_000, [f"{{}} {number}" for number in range(81)])
    assert encoder.batches == []


def test_errors_of_the_encoder_pass_through(tokenizer: Tokenizer) -> None:
    def closed(_: NDArray[np.int64]) -> NDArray[np.float32]:
        raise ClosedError("closed")

    space = TextSpace(closed, tokenizer, "space", D, OWN)
    for _ in range(2):  # the second would hang if the first had kept its lock
        with pytest.raises(ClosedError):
            space.embed(["cat"])


@pytest.mark.parametrize("count", [2, 8, 32])
def test_threads_give_the_serial_answer(
    tmp_path: Path, encoder: Encoder, tokenizer: Tokenizer, count: int
) -> None:
    names = [f"thing {number}" for number in range(40)]
    serial = TextSpace(Encoder(), tokenizer, "space", D, OWN).embed(names)
    space = TextSpace(encoder, tokenizer, "space", D, OWN, cache=TextCache(tmp_path))
    wrong: list[object] = []

    def work(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(names))[:20]
        rows = space.embed([names[i] for i in order])
        if not np.allclose(rows, serial[order], atol=1e-6):
            wrong.append(order)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(encoder.batches) <= len(names) * len(OWN)  # no name was computed twice
