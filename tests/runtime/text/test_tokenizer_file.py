"""A `tokenizer.json` is checked before the library sees it: exporters' files pass unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers

from samclip.errors import BundleError
from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.runtime.assets import packaged_bundles
from samclip.runtime.text.tokenizer import Tokenizer
from samclip.runtime.text.tokenizer_file import (
    MAX_BYTES,
    MAX_MERGES,
    MAX_TOKENS,
    PATTERNS,
    read_tokenizer_file,
)

TEXTS = ["a photo of a cat", "naïve 🐶, isn't it?", "x" * 101, "Straße No. 1"]
BERT = (packaged_bundles() / "samclip-tiny" / "tokenizer.json").read_bytes()
Change = Callable[[dict[str, Any]], None]


def changed(change: Change, data: bytes = BERT) -> bytes:
    content = json.loads(data)
    change(content)
    return json.dumps(content).encode()


def nested(field: str, depth: int = 100_000) -> bytes:
    return b'{"%s": %s' % (field.encode(), b"[" * depth)


@pytest.mark.parametrize("data", [BERT, clip_tokenizer_json()], ids=["BERT", "CLIP"])
def test_files_of_exporters_mean_the_same_when_they_are_checked(data: bytes) -> None:
    library = tokenizers.Tokenizer.from_str(data.decode())
    checked = tokenizers.Tokenizer.from_str(read_tokenizer_file(data).content)
    library.no_padding()
    library.no_truncation()
    for text in TEXTS:
        expected, got = (t.encode(text, add_special_tokens=False) for t in (library, checked))
        assert (got.ids, got.offsets) == (expected.ids, expected.offsets)


def test_what_is_not_used_is_not_passed_on() -> None:
    unused = {
        "padding": {"strategy": {"Fixed": 10**9}, "pad_id": 0},
        "truncation": {"max_length": 10**18, "stride": 10**18},
        "post_processor": {"type": "Unheard of"},
        "decoder": {"type": "Unheard of"},
    }
    tokenizer = Tokenizer.from_bytes(changed(lambda content: content.update(unused)), 8)
    assert np.array_equal(tokenizer(TEXTS), Tokenizer.from_bytes(BERT, 8)(TEXTS))


def model(**fields: Any) -> Change:
    return lambda content: content["model"].update(fields)


def added(**fields: Any) -> Change:
    return lambda content: content["added_tokens"].append({**content["added_tokens"][0], **fields})


def whole(**fields: Any) -> Change:
    return lambda content: content.update(fields)


def split(regex: str) -> dict[str, Any]:
    pattern = {"Regex": regex}
    return {"type": "Split", "pattern": pattern, "behavior": "Removed", "invert": False}


BPE = {"type": "BPE", "vocab": {"[CLS]": 0, "[SEP]": 1, "a": 2}, "merges": []}
HOSTILE: dict[str, bytes | Change] = {
    "too large": b" " * (MAX_BYTES + 1),
    "deep in the whole": b"[" * 1_000_000,
    "deep in the model": nested("model"),
    "deep in what is not used": nested("truncation"),
    "deep objects": b'{"decoder": ' + b'{"a":' * 100_000,
    "an expression without end": whole(pre_tokenizer=split("(a+)+$")),
    "another expression": whole(normalizer={**split("a*"), "type": "Replace", "content": "b"}),
    "a text to look for": whole(pre_tokenizer={**split(""), "pattern": {"String": "ab"}}),
    "no pattern": whole(pre_tokenizer={**split(""), "pattern": {}}),
    "two patterns": whole(pre_tokenizer={**split(""), "pattern": {"Regex": r"\s+", "String": " "}}),
    "many merges": whole(model={**BPE, "merges": ["a a"] * (MAX_MERGES + 1)}),
    "a long replacement": whole(
        normalizer={"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "x" * 10**6}
    ),
    "many steps": whole(pre_tokenizer={"type": "Sequence", "pretokenizers": [split(r"\s+")] * 9}),
    "a sequence in a sequence": whole(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}
    ),
    "another normalizer": whole(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "another pre-tokenizer": whole(pre_tokenizer={"type": "Metaspace", "replacement": "_"}),
    "another model": model(type="Unigram", vocab=[["a", 0.0]]),
    "another version": whole(version="2.0"),
    "an unknown field": whole(surprise=1),
    "chance": whole(model={**BPE, "dropout": 0.5}),
    "a prefix that panics": whole(model={**BPE, "continuing_subword_prefix": "#####"}),
    "a merge of unknown tokens": whole(model={**BPE, "merges": [["x", "y"]]}),
    "a merge of three": whole(model={**BPE, "merges": [["a", "a", "a"]]}),
    "long words": model(max_input_chars_per_word=10**9),
    "a long token": model(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "x" * 10**6: 3}),
    "a large id": model(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "x": MAX_TOKENS}),
    "a negative id": model(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "x": -1}),
    "many tokens": model(vocab={str(number): number % 9 for number in range(MAX_TOKENS + 1)}),
    "no unknown token": model(vocab={"[CLS]": 1, "[SEP]": 2}),
    "an empty added token": added(content=""),
    "an added token of a large id": added(content="x", id=2**32 - 1),
    "many added tokens": lambda content: content.update(
        added_tokens=content["added_tokens"] * 1_000
    ),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(hostile: bytes | Change) -> None:
    data = hostile if isinstance(hostile, bytes) else changed(hostile)
    with pytest.raises(BundleError, match="tokenizer file cannot be used") as caught:
        Tokenizer.from_bytes(data, 77)
    assert len(str(caught.value)) < 450


def test_every_expression_that_is_run_takes_a_long_text_in_no_time() -> None:
    for pattern in PATTERNS:
        splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "removed")
        for text in ("a" * 50_000, "'" * 50_000, "<s" * 25_000, " " * 50_000 + "!"):
            assert splitter.pre_tokenize_str(text) is not None  # 10 ms each; the test would hang


class PanicException(BaseException):
    """What the library's Rust code raises when it panics: no Exception, and no class of its own."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PanicException("index out of bounds"), BundleError),
        (Exception("not a tokenizer"), BundleError),
        (RecursionError(), RecursionError),
        (MemoryError(), MemoryError),
        (TimeoutError("the caller's limit"), TimeoutError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_errors_of_the_library_are_bundle_errors_and_others_pass(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[BaseException]
) -> None:
    library: dict[str, Any] = {"__name__": "tokenizers.models", "raised": raised}
    exec("def fail(*_, **__): raise raised", library)
    fail = library["fail"]
    tokenizer = Tokenizer.from_bytes(BERT, 8)
    tokenizer._backend = type("Backend", (), {"encode": fail})()
    with pytest.raises(expected):
        tokenizer(["a cat"])

    class Library:
        from_str = staticmethod(fail)

    monkeypatch.setattr(tokenizers, "Tokenizer", Library)
    with pytest.raises(expected):
        Tokenizer.from_bytes(BERT, 8)
