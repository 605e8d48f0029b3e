from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from reference_open_clip import reference_tokenizer
from text_corpus import corpus
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers

from samclip.errors import BundleError, VocabularyError
from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.runtime.text.tokenizer import MAX_CHARACTERS, Tokenizer, clean_text

START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bytes(clip_tokenizer_json(), 77)


def bert_json() -> bytes:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s"]
    backend = Backend(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(words[:4])
    return backend.to_str().encode()


def test_equals_open_clip_on_thousands_of_texts(tokenizer: Tokenizer) -> None:
    texts = corpus()
    assert len(set(texts)) > 2_000
    ours, reference = tokenizer(texts), reference_tokenizer()(texts)
    assert ours.dtype == np.int64
    different = [text for text, a, b in zip(texts, ours, reference, strict=True) if (a != b).any()]
    assert different == []


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("  A  Photo of a CAT ", [320, 1125, 539, 320, 2368]),
        ("", []),
        ("<end_of_text>", [END]),
        ("it's", [585, 568]),
    ],
)
def test_known_ids(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    expected = [START, *ids, END]
    assert tokenizer([text])[0].tolist() == expected + [0] * (77 - len(expected))


def test_a_long_text_ends_with_the_end_token(tokenizer: Tokenizer) -> None:
    row = tokenizer(["cat " * 500])[0]
    assert row.tolist() == [START] + [2368] * 75 + [END]


def test_context_length_is_honoured() -> None:
    short = Tokenizer.from_bytes(clip_tokenizer_json(), 4)
    assert short(["a photo of a cat"]).tolist() == [[START, 320, 1125, END]]
    assert short([]).shape == (0, 4)


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "\ude00\ud83d", "cat\udbff"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(VocabularyError, match="lone surrogate at position"):
        tokenizer([text])


@pytest.mark.parametrize("texts", ["a cat", b"a cat", 3, None, [b"a"], [None], ["a", 1]])
def test_anything_but_a_list_of_strings_is_refused(tokenizer: Tokenizer, texts: object) -> None:
    with pytest.raises(VocabularyError, match="string"):
        tokenizer(texts)  # type: ignore[arg-type]


def test_an_endless_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(VocabularyError, match="100,001 characters"):
        tokenizer(["x" * (MAX_CHARACTERS + 1)])


def test_clean_text_mends_unescapes_collapses_and_lowers() -> None:
    assert clean_text(" CafÃ©\t&amp;lt;B&gt; ") == "café <b>"


def test_openai_names_of_the_special_tokens_work_too(tokenizer: Tokenizer) -> None:
    content = json.loads(clip_tokenizer_json())
    vocabulary = content["model"]["vocab"]
    for ours, theirs in (
        ("<start_of_text>", "<|startoftext|>"),
        ("<end_of_text>", "<|endoftext|>"),
    ):
        number = vocabulary.pop(ours)
        vocabulary[theirs] = number
        added = {"id": number, "content": theirs, "special": True, "normalized": False}
        added |= {"single_word": False, "lstrip": False, "rstrip": False}
        content["added_tokens"].append(added)
    content["post_processor"] = None
    content["truncation"] = {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    other = Tokenizer.from_bytes(json.dumps(content).encode(), 77)
    texts = ["a photo of a cat", "a <|endoftext|> b", "x<end_of_text>", "one two three four five"]
    assert np.array_equal(other(texts), tokenizer(texts))


def test_bert_files_clean_for_themselves() -> None:
    tokenizer = Tokenizer.from_bytes(bert_json(), 6)
    texts = ["A  cats", "a [SEP] cat", "\ud83d\ude00", "a a a a a a"]
    assert tokenizer(texts).tolist() == [
        [2, 4, 5, 6, 3, 0],
        [2, 4, 1, 1, 1, 3],  # a text cannot name a special token; cut to six
        [2, 1, 3, 0, 0, 0],
        [2, 4, 4, 4, 4, 3],
    ]
    with pytest.raises(VocabularyError, match="surrogate"):
        tokenizer(["\udcff"])


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff\xfe", b"[1]", Backend(models.BPE()).to_str().encode()]
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="tokenizer file"):
        Tokenizer.from_bytes(data, 77)


def test_too_short_a_context_is_refused() -> None:
    with pytest.raises(BundleError, match="context_length is 1"):
        Tokenizer.from_bytes(clip_tokenizer_json(), 1)


def test_threads_give_the_serial_ids(tokenizer: Tokenizer) -> None:
    texts = corpus(300)[-150:]
    serial, answers = tokenizer(texts), []
    threads = [threading.Thread(target=lambda: answers.append(tokenizer(texts))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(np.array_equal(answer, serial) for answer in answers)
