"""Damaged and hostile vocabulary files: one VocabularyError each, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import COUNTS, draw_bits, flip_bit
from numpy.typing import NDArray

from samclip.errors import VocabularyError
from samclip.runtime.bundles.weights import parse_tensors, serialise_weights
from samclip.runtime.text.examples import Examples
from samclip.runtime.text.names import MAX_NAMES
from samclip.runtime.text.vocabulary import Vocabulary, load_vocabulary
from samclip.runtime.text.vocabulary_file import MAX_BYTES, MAX_HEADER_BYTES, digest_of

Arrays = dict[str, NDArray[Any]]
Change = Callable[[dict[str, Any], Arrays], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    plain = Vocabulary(("a", "b"), np.eye(2, 4, dtype=np.float32), 10.0, True, space="0" * 64)
    sums = np.asarray([[0, 0, 0, 1], [0, 0, 0, 0]], np.float32)
    centre = np.full(4, 0.5, np.float32)
    none = Examples.none(plain.embeddings, 2, "1" * 64)
    made = plain.with_examples(none.add(sums, np.asarray([1, 0]), centre, 1))
    return made.save(tmp_path_factory.mktemp("whole") / "v.safetensors").read_bytes()


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(VocabularyError) as caught:
        load_vocabulary(path)
    message = str(caught.value)
    assert path.name in message or "at most" in message
    return message


def test_every_length_but_the_whole_is_refused(whole: bytes, tmp_path: Path) -> None:
    for length in range(len(whole)):
        refused(tmp_path / "cut.safetensors", whole[:length])
    refused(tmp_path / "long.safetensors", whole + b"\0")


@pytest.mark.parametrize("count", COUNTS)
def test_a_flipped_bit_is_found_or_changes_nothing(
    whole: bytes, tmp_path: Path, count: int
) -> None:
    """In the header, spaces may become other white space; a tensor's bytes all count."""
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(whole)
    before = load_vocabulary(path)
    for bit in draw_bits(whole, count).tolist():
        path.write_bytes(flip_bit(whole, bit))
        try:
            after = load_vocabulary(path)
        except VocabularyError:
            continue
        assert after.names == before.names
        np.testing.assert_array_equal(after.embeddings, before.embeddings)


def forge(whole: bytes, change: Change) -> bytes:
    """Change facts and tensors, and make the digest fit, as an attacker would."""
    arrays, metadata = parse_tensors(whole, MAX_HEADER_BYTES)
    facts, tensors = json.loads(metadata["vocabulary"]), dict(arrays)
    change(facts, tensors)
    encoded = json.dumps(facts)
    metadata |= {"vocabulary": encoded, "sha256": digest_of(encoded, tensors)}
    return serialise_weights(tensors, metadata, MAX_HEADER_BYTES)


def swap(facts: dict[str, Any], tensors: Arrays) -> None:
    tensors["texts"], tensors["sums"] = tensors["sums"], tensors["texts"]


FORGED: dict[str, tuple[Change, str]] = {
    "NaN": (lambda _, t: t.update(embeddings=t["embeddings"] * np.nan), "length 1"),
    "rows of zeros": (lambda _, t: t.update(embeddings=t["embeddings"] * 0), "length 1"),
    "sums of NaN": (lambda _, t: t.update(sums=t["sums"] * np.nan), "finite"),
    "endless sums": (lambda _, t: t.update(sums=t["sums"] + np.inf), "finite"),
    "more than was counted": (lambda _, t: t.update(sums=t["sums"] * 9), "no longer"),
    "counts below 0": (lambda _, t: t.update(counts=t["counts"] - 5), "0 to"),
    "tensors in each other's place": (swap, "finite rows|no longer|length 1"),
    "half as much precision": (
        lambda _, t: t.update(embeddings=t["embeddings"].astype(np.float16)),
        "of float16, expected",
    ),
    "a foreign tensor": (lambda _, t: t.update(code=np.zeros(3, np.uint8)), "'code'"),
    "no embeddings": (lambda _, t: t.pop("embeddings"), "no tensor 'embeddings'"),
    "examples without a sum": (lambda _, t: t.pop("sums"), "lacks some"),
    "a number": (lambda _, t: t.update(embeddings=np.float32(1).reshape(())), "no rows"),
    "rows that do not rise": (lambda _, t: t.update(first_rows=np.asarray([0, 9])), "rise"),
    "more names than rows": (lambda f, _: f["names"].append("c"), "2 embeddings for 3 names"),
    "no name": (lambda f, _: f.update(names=[]), "names"),
    "names of numbers": (lambda f, _: f.update(names=[1, 2]), "malformed"),
    "an unknown fact": (lambda f, _: f.update(run="rm -rf /"), "malformed"),
    "a scale of infinity": (lambda f, _: f.update(logit_scale=1e300), "logit_scale"),
    "photos below 0": (lambda f, _: f.update(photos=-1), "photos"),
    "a digest of a megabyte": (lambda f, _: f.update(space="0" * 10**6), "malformed"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_files_are_refused(kind: str, whole: bytes, tmp_path: Path) -> None:
    change, words = FORGED[kind]
    message = refused(tmp_path / "forged.safetensors", forge(whole, change))
    assert any(word in message for word in words.split("|")), message


def test_an_edit_without_the_digest_is_found(whole: bytes, tmp_path: Path) -> None:
    edited = whole.replace(b'\\"a\\"', b'\\"x\\"')
    assert edited != whole
    assert "digest" in refused(tmp_path / "edited.safetensors", edited)


def test_too_many_names_are_refused(tmp_path: Path) -> None:
    count = MAX_NAMES + 1
    rows = np.zeros((count, 1), np.float32) + 1
    names = tuple(map(str, range(count)))
    path = Vocabulary(names, rows, 1.0, True).save(tmp_path / "many.safetensors")
    with pytest.raises(VocabularyError, match=f"{count:,}"):
        load_vocabulary(path)


def test_sizes_are_bounded_before_anything_is_made(tmp_path: Path) -> None:
    """Of a header of 2^60 bytes, tensors of petabytes, and a file of holes."""
    path = tmp_path / "large.safetensors"
    tracemalloc.start()
    try:
        assert "claims" in refused(path, (2**60).to_bytes(8, "little") + b"{}")
        assert "claims" in refused(path, (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}")
        entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
        header = json.dumps({"embeddings": entry}).encode()
        refused(path, len(header).to_bytes(8, "little") + header)
        nested = b"[" * 100_000
        refused(path, len(nested).to_bytes(8, "little") + nested)
        os.truncate(path, MAX_BYTES + 1)
        with pytest.raises(VocabularyError, match="at most"):
            load_vocabulary(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23  # 8 MiB
    finally:
        tracemalloc.stop()


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(VocabularyError, match="a pipe"):
        load_vocabulary(tmp_path / "pipe.safetensors")
    with pytest.raises(VocabularyError, match=r"a folder|Is a directory"):
        load_vocabulary(tmp_path)
    pickled = tmp_path / "pickle.safetensors"
    refused(pickled, b"\x80\x04\x95" + hashlib.sha256(b"pickle").digest())
