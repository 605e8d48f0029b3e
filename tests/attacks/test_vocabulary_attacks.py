"""Unusual names: a VocabularyError, or finite embeddings that stay the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured_bundle import CONTEXT, TOKENIZER, write_coloured_bundle
from figures import Figures

import samclip
from samclip.errors import VocabularyError
from samclip.runtime.assets import packaged_bundles
from samclip.runtime.model import Model
from samclip.runtime.text.text_space import MEMORY_ROWS
from samclip.runtime.text.tokenizer import MAX_CHARACTERS, Tokenizer

ODD: dict[str, list[str]] = {
    "one": ["a cat"],
    "twice the same": ["a cat", "a dog", "a cat"],
    "the same but for case": ["Cat", "cat", "CAT"],
    "accents": ["café", "cafe\u0301", "naïve", "straße"],
    "other scripts": ["猫", "кошка", "قطة", "고양이", "γάτα", "แมว"],
    "emoji": ["🐈", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪"],
    "surrogates in pairs": ["\ud83d\udc08"],
    "right to left marks": ["a\u202ecat", "\u200fcat"],
    "zero width": ["c\u200ba\u200bt"],
    "control characters": ["a\x1b[31mcat", "cat\a", "a\tcat\n"],
    "NUL": ["a\0cat"],
    "10 kB": ["x" * 10_000],
    "10 kB of words": ["a cat " * 1_700],
    "10 kB of emoji": ["🐈" * 2_500],
    "10 kB of accents": ["e" + "\u0301" * 5_000],
    "the longest": ["y" * (MAX_CHARACTERS - len("a ."))],
    "special tokens": ["[CLS]", "[PAD] [SEP]", "<|endoftext|>", "<end_of_text>"],
    "placeholders": ["{}", "{0}", "{name!r}", "%s", "$HOME"],
    "markup": ["<script>", "&lt;b&gt;", "&#x1F600;"],
    "SQL": ["'; DROP TABLE embeddings; --"],
    "paths": ["../../etc/passwd", "C:\\cat"],
    "punctuation": ["...", "?!", "-"],
    "numbers": ["0", "-1", "NaN", "1e999"],
    "white space around": ["  cat  "],
    "a few hundred": [f"thing {number}" for number in range(300)],
}
BAD: dict[str, Any] = {
    "none": [],
    "no list": None,
    "an empty name": [""],
    "a blank": ["cat", "   "],
    "white space of other kinds": ["\u3000\t\n"],
    "one string": "cat",
    "bytes": b"cat",
    "a list of bytes": [b"cat"],
    "a number": 5,
    "numbers": [1, 2],
    "None among names": ["cat", None],
    "a list among names": ["cat", ["dog"]],
    "too long": ["x" * (MAX_CHARACTERS + 1)],
    "100 MB": ["x" * 100_000_000],
    "half a surrogate pair": ["\ud83d"],
    "halves in the wrong order": ["\udc08\ud83d"],
    "undecodable bytes of a file name": ["caf\udce9"],
}
TEMPLATES: dict[str, Any] = {
    "none": [],
    "no place for the name": ["a photo"],
    "an unknown set": "opnai",
    "numbers": [1],
    "half a surrogate pair": ["\ud83d {}"],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coloured_bundle(tmp_path_factory.mktemp("names") / "bundle")


@pytest.fixture(scope="module")
def models(bundle: Path) -> Iterator[tuple[Model, ...]]:
    """Two models that share a cache of embeddings, and one with another cache."""
    folders = (bundle.parent / "a", bundle.parent / "a", bundle.parent / "b")
    loaded = [samclip.load(bundle, "onnxruntime", threads=1, cache_dir=path) for path in folders]
    yield tuple(loaded)
    for model in loaded:
        model.close()


@pytest.fixture(scope="module")
def model(models: tuple[Model, ...]) -> Model:
    return models[0]


@pytest.mark.parametrize("names", ODD.values(), ids=ODD)
def test_odd_but_valid_names(names: list[str], models: tuple[Model, ...], figures: Figures) -> None:
    got, cached, computed = (model.vocabulary(names) for model in models)
    assert got.names == tuple(names)
    assert np.isfinite(got.embeddings).all()
    np.testing.assert_allclose(np.linalg.norm(got.embeddings, axis=1), 1, atol=1e-5)  # unit rows
    first = [names.index(name) for name in names]  # a name that is there twice has one vector
    np.testing.assert_array_equal(got.embeddings, got.embeddings[first])
    np.testing.assert_array_equal(cached.embeddings, got.embeddings)
    np.testing.assert_allclose(computed.embeddings, got.embeddings, atol=1e-6)  # float32
    found = "finite unit vectors, the same out of the cache"
    figures.add("vocabularies: odd but valid", count=1, found=found)


@pytest.mark.parametrize("names", BAD.values(), ids=BAD)
def test_bad_names(names: Any, model: Model, figures: Figures) -> None:
    with pytest.raises(VocabularyError) as caught:
        model.vocabulary(names)
    assert 0 < len(str(caught.value)) < 300
    figures.add("vocabularies: bad", count=1, found="VocabularyError")


@pytest.mark.parametrize("templates", TEMPLATES.values(), ids=TEMPLATES)
def test_bad_templates(templates: Any, model: Model, figures: Figures) -> None:
    with pytest.raises(VocabularyError):
        model.vocabulary(["a cat"], templates)
    figures.add("vocabularies: bad templates", count=1, found="VocabularyError")


def test_tokens_are_those_of_the_reference(figures: Figures) -> None:
    """The reference is transformers' tokenizer for BERT."""
    transformers = pytest.importorskip("transformers")
    data = (packaged_bundles() / "samclip-tiny" / TOKENIZER).read_bytes()
    vocabulary = json.loads(data)["model"]["vocab"]
    reference = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True)
    tokenizer = Tokenizer.from_bytes(data, CONTEXT)
    names = [name for names in ODD.values() for name in names if "[" not in name]
    for name in names:
        joined = name.encode("utf-16", "surrogatepass").decode("utf-16")
        expected = reference(joined, truncation=True, max_length=CONTEXT, padding="max_length")
        assert tokenizer([name])[0].tolist() == expected["input_ids"], name
    found = "the tokens of transformers' BertTokenizer"
    figures.add("vocabularies: tokens of odd names", count=len(names), found=found)


@pytest.mark.parametrize("name", ["[CLS]", "[PAD]", "a [SEP] b", "[MASK]"])
def test_names_smuggle_no_special_tokens_in(name: str) -> None:
    tokenizer = Tokenizer.from_bytes(
        (packaged_bundles() / "samclip-tiny" / TOKENIZER).read_bytes(), CONTEXT
    )
    ids = tokenizer([name])[0].tolist()
    special = tokenizer([""])[0, :2].tolist()
    assert [ids.count(token) for token in special] == [1, 1]
    assert ids.index(special[1]) == len([token for token in ids if token]) - 1


MANY = """
import json, resource, sys
import samclip
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
bundle, cache, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = samclip.load(bundle, "onnxruntime", threads=1, cache_dir=cache)
model.vocabulary(["a cat"], ["{}"])
before, rows = peak(), 0
for turn in range(rounds):
    names = [f"thing {number} of {turn}" for number in range(10_000)]
    rows += len(model.vocabulary(names, ["{}"]).embeddings)
print(json.dumps([rows, peak() - before]))
"""
BUDGET_MB = 100  # more than before: 10,000 names of 384 numbers, and what the encoder works in


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rounds"), [("coloured", 3), ("samclip-tiny", 1)])
def test_10k_names_stay_within_a_memory_budget(
    name: str, rounds: int, bundle: Path, tmp_path: Path, figures: Figures
) -> None:
    """Three times 10,000 are more than stay in memory: the oldest are dropped."""
    assert MEMORY_ROWS < 30_000
    path = bundle if name == "coloured" else name
    command = [sys.executable, "-c", MANY, str(path), str(tmp_path), str(rounds)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, grown = json.loads(answer.stdout)
    assert rows == rounds * 10_000
    assert grown <= BUDGET_MB
    figures.add(
        f"vocabularies: {rounds} x 10,000 names, {name}",
        count=rows,
        found=f"the process grows by {grown:.0f} MB",
    )
