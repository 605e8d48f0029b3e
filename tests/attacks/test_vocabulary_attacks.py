"""Unusual names: a VocabularyError, or finite embeddings that stay the same."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured_bundle import CONTEXT, TOKENIZER, write_coloured_bundle
from figures import Figures
from own_process import run_alone

import samclip
from samclip.errors import InputWarning, VocabularyError
from samclip.runtime.assets import packaged_bundles
from samclip.runtime.model import Model
from samclip.runtime.text.names import MAX_NAMES
from samclip.runtime.text.text_space import MEMORY_ROWS
from samclip.runtime.text.tokenizer import MAX_CHARACTERS, Tokenizer

ODD: dict[str, list[str]] = {
    "one": ["a cat"],
    "accents": ["café", "naïve", "straße", "cà phê"],
    "other scripts": ["кошка", "γάτα"],
    "right to left marks": ["a\u202ecat", "\u200fdog"],
    "zero width": ["c\u200ba\u200bt"],
    "special tokens": ["[CLS]", "[PAD] [SEP]", "<|endoftext|>", "<end_of_text>"],
    "placeholders": ["{}", "{0}", "{name!r}", "%s", "$HOME"],
    "markup": ["<script>", "&lt;b&gt;", "&#x1F600;"],
    "SQL": ["'; DROP TABLE embeddings; --"],
    "paths": ["../../etc/passwd", "C:\\cat"],
    "punctuation": ["...", "?!", "-"],
    "numbers": ["0", "-1", "NaN", "1e999"],
    "white space around": ["  cat  ", "a\tcat\n"],
    "a few hundred": [f"thing {number}" for number in range(300)],
}
# Names that are answered, and the warning about what is lost or the same.
DOUBTFUL: dict[str, tuple[list[str], str]] = {
    "twice the same": (["a cat", "a dog", "a cat"], "share one probability: 'a cat' and 'a cat'"),
    "the same but for case": (["Cat", "cat", "CAT "], "'Cat' and 'cat'; 'Cat' and 'CAT '"),
    "the same but for accents": (["café", "cafe\u0301"], "cannot be kept apart: 'café' and 'cafe"),
    "the same but for what is unknown": (["cup 🐈", "cup 🐕"], "apart: 'cup 🐈' and 'cup 🐕'"),
    "an emoji among words": (["a 🐈 on a mat"], "no token for '🐈'"),
    "surrogates in pairs": (["a \ud83d\udc08"], "no token for '🐈'"),
    "another script among words": (["a 猫 and a dog"], "no token for '猫'"),
    "vowel signs": (["कुत्ता"], "no token for 'ु', '्'"),
    "a sound mark": (["が"], "no token for 'が'"),
    "a replacement character": (["caf\ufffd"], "no token for '\ufffd'"),
    "an unassigned character": (["cat \U0001fae8"], "no token for"),
    "control characters": (["a\x1b[31mcat", "cat\a"], r"no token for '\\x1b', '\\x07'"),
    "NUL": (["a\0cat"], r"no token for '\\x00'"),
    "10 kB of words": (["a cat " * 1_700], "takes 32 tokens"),
    "two that differ in the end": (["a " * 50 + "cat", "a " * 50 + "dog"], "cat' and 'a .*dog'"),
    "10 kB of accents": (["e" + "\u0301" * 5_000 + " 猫"], "no token for '猫'"),
}
BAD: dict[str, Any] = {
    "none": [],
    "no list": None,
    "an empty name": [""],
    "a blank": ["cat", "   "],
    "white space of other kinds": ["\u3000\t\n"],
    "nothing visible": ["\u200b\u202e\ufeff"],
    "marks alone": ["\u0301"],
    "control characters alone": ["\x00\x1b"],
    "one string": "cat",
    "bytes": b"cat",
    "a list of bytes": [b"cat"],
    "a number": 5,
    "numbers": [1, 2],
    "None among names": ["cat", None],
    "a list among names": ["cat", ["dog"]],
    "another script": ["สุนัข", "กาแฟ", "ถนน"],
    "another script among others": ["a cat", "고양이"],
    "wide letters": ["\uff43\uff41\uff54"],
    "emoji": ["🐈", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪"],
    "private characters": ["\ue000"],
    "10 kB of emoji": ["🐈" * 2_500],
    "one word of 10 kB": ["x" * 10_000],
    "the longest": ["y" * (MAX_CHARACTERS - len("a ."))],
    "too long": ["x" * (MAX_CHARACTERS + 1)],
    "100 MB": ["x" * 100_000_000],
    "100 MB together": ["cat " * 25_000] * 1_000,
    "too many": ["cat"] * (MAX_NAMES + 1),
    "without end": itertools.repeat("cat"),
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
    "no room for the name": ["very " * 40 + "{}"],
    "a long one": ["x" * 10_001 + "{}"],
    "too many": [f"{number} {{}}" for number in range(1_001)],
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


@pytest.mark.parametrize(("names", "message"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_doubtful_names(
    names: list[str], message: str, models: tuple[Model, ...], figures: Figures
) -> None:
    for model in (*models, models[0]):  # every time, whatever is cached
        with pytest.warns(InputWarning) as caught:
            got = model.vocabulary(names)
        assert any(re.search(message, str(warning.message)) for warning in caught)
        assert all(len(str(warning.message)) < 500 for warning in caught)
        np.testing.assert_allclose(np.linalg.norm(got.embeddings, axis=1), 1, atol=1e-5)
    figures.add("vocabularies: doubtful", count=1, found="unit vectors and an InputWarning")


@pytest.mark.parametrize("names", BAD.values(), ids=BAD)
def test_bad_names(names: Any, model: Model, figures: Figures) -> None:
    with pytest.raises(VocabularyError) as caught:
        model.vocabulary(names)
    assert 0 < len(str(caught.value)) < 400
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
    lists = (*ODD.values(), *(names for names, _ in DOUBTFUL.values()))
    names = [name for names in lists for name in names if "[" not in name]
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
import json, sys
import samclip
from own_process import peak
bundle, cache, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = samclip.load(bundle, "onnxruntime", threads=1, cache_dir=cache)
model.vocabulary(["a cat"], ["{}"])
rows = 0
for turn in range(rounds):
    names = [f"thing {number} of {turn}" for number in range(10_000)]
    rows += len(model.vocabulary(names, ["{}"]).embeddings)
print(json.dumps([rows, peak() / 1e6]))
"""
BUDGET_MB = 300  # the whole process, with model, tokenizer and 10,000 names of 384 numbers


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rounds"), [("coloured", 3), ("samclip-tiny", 1)])
def test_10k_names_stay_within_a_memory_budget(
    name: str, rounds: int, bundle: Path, tmp_path: Path, figures: Figures
) -> None:
    """Three times 10,000 are more than stay in memory: the oldest are dropped."""
    assert MEMORY_ROWS < 30_000
    path = bundle if name == "coloured" else name
    rows, used = run_alone(MANY, path, tmp_path, rounds)
    assert rows == rounds * 10_000
    assert used <= BUDGET_MB
    figures.add(
        f"vocabularies: {rounds} x 10,000 names, {name}",
        count=rows,
        found=f"the whole process has at most {used:.0f} MB",
    )
