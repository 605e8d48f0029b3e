"""Vocabularies as files: what is written is what is read, and nothing else is taken."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from samclip.errors import InputError, VocabularyError, WriteError
from samclip.runtime.bundles.weights import serialise_weights
from samclip.runtime.text.examples import Examples
from samclip.runtime.text.vocabulary import Vocabulary, load_vocabulary
from samclip.runtime.text.vocabulary_file import VERSION

SPACE, PICTURES = "a" * 64, "b" * 64


def vocabulary() -> Vocabulary:
    """Two names of three texts, one of them with examples."""
    plain = Vocabulary(
        names=("Ventil ✓", 'a "cat"\n'),
        embeddings=np.eye(3, 4, dtype=np.float32),
        logit_scale=12.5,
        trained_head=True,
        first_rows=np.asarray([0, 2]),
        seen=np.asarray([True, False]),
        space=SPACE,
        templates=("{}", "a photo of a {}."),
    )
    none = Examples.none(plain.embeddings, 2, PICTURES)
    sums = np.asarray([[0, 0, 0.6, 0.8], [0, 0, 0, 0]], np.float32)
    centre = np.full(4, 0.5, np.float32)
    return plain.with_examples(none.add(sums, np.asarray([1, 0]), centre, 1))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = vocabulary()
    path = made.save(str(tmp_path / "names.safetensors"))
    read = load_vocabulary(path)
    for field in ("names", "logit_scale", "trained_head", "space", "templates"):
        assert getattr(read, field) == getattr(made, field), field
    for field in ("embeddings", "first_rows", "seen"):
        np.testing.assert_array_equal(getattr(read, field), getattr(made, field), field)
    assert read.examples is not None and made.examples is not None
    for field in ("texts", "sums", "counts", "centre"):
        mine, theirs = getattr(made.examples, field), getattr(read.examples, field)
        np.testing.assert_array_equal(theirs, mine, field)
        assert theirs.dtype == mine.dtype
    assert (read.examples.photos, read.examples.space) == (1, PICTURES)
    # The same vocabulary gives the same bytes, and any reader of safetensors opens them.
    assert read.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with safe_open(path, "numpy") as file:
        facts = json.loads(file.metadata()["vocabulary"])
        np.testing.assert_array_equal(file.get_tensor("embeddings"), made.embeddings)
    assert facts["names"] == [*made.names]
    assert facts["counts"] == {"Ventil ✓": 1, 'a "cat"\n': 0}
    assert facts["weights"]["Ventil ✓"] == pytest.approx(float(made.examples.weights[0]))
    assert facts["pictures"] == PICTURES


def test_texts_alone_take_no_more(tmp_path: Path) -> None:
    plain = Vocabulary(("a", "b"), np.eye(2, dtype=np.float32), 1.0, False)
    read = load_vocabulary(plain.save(tmp_path / "plain.safetensors"))
    assert read.examples is None and read.first_rows is None and read.seen is None
    assert read.space == "" and read.templates == ()


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vocabulary().save(tmp_path / "names.safetensors")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        Vocabulary(("a",), np.eye(1, dtype=np.float32), 1.0, True).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["names.safetensors"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    broken = Vocabulary(("a",), np.full((1, 2), np.nan, np.float32), 1.0, True)
    with pytest.raises(VocabularyError, match="length 1"):
        broken.save(path)
    with pytest.raises(VocabularyError, match="not Unicode"):
        Vocabulary(("\ud800",), np.eye(1, dtype=np.float32), 1.0, True).save(path)
    with pytest.raises(InputError, match="is empty"):
        vocabulary().save("")
    with pytest.raises(WriteError, match="could not be written"):
        vocabulary().save(tmp_path / "no" / "such" / "folder.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(VocabularyError, match="cannot be read"):
        load_vocabulary(path)
    weights = {"encoder.weight": np.zeros(3, np.float32)}
    path.write_bytes(serialise_weights(weights))
    with pytest.raises(VocabularyError, match="its metadata has no format, expected 'samclip-voc"):
        load_vocabulary(path)
    path.write_bytes(serialise_weights(weights, {"format": "pt"}))
    with pytest.raises(VocabularyError, match="has the format 'pt'"):
        load_vocabulary(path)
    path.write_bytes(serialise_weights(weights, {"format": "samclip-vocabulary", "version": "2"}))
    with pytest.raises(VocabularyError, match=f"version '2'; samclip .* reads version '{VERSION}'"):
        load_vocabulary(path)
