"""Strangers' bundles and the cache of text embeddings: what they write changes no one's answers.

A stranger's bundle may call its text space, its files and their digests as somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured_bundle import CONTEXT, TOKENIZER, write_coloured_bundle
from numpy.typing import NDArray

import samclip
from samclip.errors import BundleError, IntegrityError, VocabularyError
from samclip.runtime.bundles.manifest import DIGEST_NAME, MANIFEST_NAME
from samclip.runtime.text.text_cache import FILE_NAME

NAMES = ["cat", "dog", "boat"]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coloured_bundle(tmp_path_factory.mktemp("honest") / "bundle")


@pytest.fixture(scope="module")
def right(honest: Path) -> NDArray[np.float32]:
    return embed(honest, honest.parent / "right")


def embed(bundle: Path, cache: Path, names: list[str] = NAMES) -> NDArray[np.float32]:
    with samclip.load(bundle, "onnxruntime", threads=1, cache_dir=cache) as model:
        return model.vocabulary(names).embeddings


def rows(cache: Path) -> int:
    if not (cache / FILE_NAME).exists():
        return 0
    database = sqlite3.connect(cache / FILE_NAME)
    (count,) = database.execute("SELECT count(*) FROM embeddings").fetchone()
    database.close()
    return int(count)


def swap_words(folder: Path) -> bytes:
    """Write a tokenizer that takes cats for dogs; return its bytes."""
    content = json.loads((folder / TOKENIZER).read_bytes())
    words = content["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    data = json.dumps(content).encode()
    (folder / TOKENIZER).write_bytes(data)
    return data


def write_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    change(manifest)
    data = json.dumps(manifest).encode()
    (folder / MANIFEST_NAME).write_bytes(data)
    (folder / DIGEST_NAME).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_NAME}\n")


def stranger(honest: Path, target: Path, *, lies: bool = False) -> Path:
    """Copy a bundle, with another tokenizer; `lies`: the manifest lists the honest one's digest."""
    shutil.copytree(honest, target)
    data = swap_words(target)

    def change(manifest: dict[str, Any]) -> None:
        digest = (
            manifest["files"][TOKENIZER]["sha256"] if lies else hashlib.sha256(data).hexdigest()
        )
        manifest["files"][TOKENIZER] = {"size": len(data), "sha256": digest}

    write_manifest(target, change)
    return target


def test_a_stranger_of_the_same_text_space_by_name(
    honest: Path, right: NDArray[np.float32], tmp_path: Path
) -> None:
    evil, cache = stranger(honest, tmp_path / "evil"), tmp_path / "cache"
    theirs = embed(evil, cache)
    np.testing.assert_array_equal(theirs, right[[1, 0, 2]])
    np.testing.assert_array_equal(embed(honest, cache), right)
    np.testing.assert_array_equal(embed(evil, cache), theirs)


def test_a_stranger_that_claims_the_digests_of_honest_files_writes_nothing(
    honest: Path, right: NDArray[np.float32], tmp_path: Path
) -> None:
    evil, cache = stranger(honest, tmp_path / "evil", lies=True), tmp_path / "cache"
    with pytest.raises(IntegrityError, match=TOKENIZER):
        embed(evil, cache)
    assert rows(cache) == 0
    np.testing.assert_array_equal(embed(honest, cache), right)
    assert rows(cache) == len(NAMES)


def test_a_stranger_that_claims_the_digests_of_honest_files_reads_honest_answers(
    honest: Path, right: NDArray[np.float32], tmp_path: Path
) -> None:
    evil, cache = stranger(honest, tmp_path / "evil", lies=True), tmp_path / "cache"
    embed(honest, cache)
    np.testing.assert_array_equal(embed(evil, cache), right)
    with pytest.raises(IntegrityError):
        embed(evil, cache, [*NAMES, "tree"])
    assert rows(cache) == len(NAMES)
    np.testing.assert_array_equal(embed(honest, cache), right)


def test_a_changed_text_graph_that_claims_the_honest_digest(honest: Path, tmp_path: Path) -> None:
    evil, cache = tmp_path / "evil", tmp_path / "cache"
    shutil.copytree(honest, evil)
    (weights,) = evil.glob("text_encoder*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"text_encoder.*SHA-256"):
        embed(evil, cache)
    assert rows(cache) == 0


def test_settings_that_change_embeddings_have_rows_of_their_own(
    honest: Path, right: NDArray[np.float32], tmp_path: Path
) -> None:
    short, cache = tmp_path / "short", tmp_path / "cache"
    shutil.copytree(honest, short)
    write_manifest(short, lambda manifest: manifest["text"].update(context_length=CONTEXT))
    embed(honest, cache)
    np.testing.assert_array_equal(embed(short, cache), right)
    assert rows(cache) == len(NAMES)  # the same space in another bundle shares them
    with samclip.load(honest, "openvino", threads=1, cache_dir=cache) as model:
        model.vocabulary(NAMES)
    assert rows(cache) == 2 * len(NAMES)  # another backend does not answer for this one


def test_a_warm_cache_needs_neither_text_graph_nor_tokenizer(
    honest: Path, right: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    embed(honest, cache)
    read: list[str] = []
    bundle_read = samclip.runtime.bundles.bundle.Bundle.read

    def note(self: Any, name: str) -> bytes:
        read.append(name)
        return bundle_read(self, name)

    monkeypatch.setattr(samclip.runtime.bundles.bundle.Bundle, "read", note)
    np.testing.assert_array_equal(embed(honest, cache), right)
    assert [name for name in read if name == TOKENIZER or "text" in name] == []


def test_names_that_lost_something_warn_in_every_process(honest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for _ in range(2):
        with pytest.warns(samclip.errors.InputWarning, match="no token for '🐈'"):
            embed(honest, cache, ["a 🐈", "a dog"])
    assert rows(cache) == 1


def test_vocabularies_are_for_one_text_space(honest: Path, tmp_path: Path) -> None:
    """The same space in another bundle or precision takes them; another space does not."""
    evil = stranger(honest, tmp_path / "evil")
    copy = shutil.copytree(honest, tmp_path / "copy")
    write_manifest(copy, lambda manifest: manifest.update(name="copy"))
    picture = np.zeros((40, 60, 3), np.uint8)
    loaded = [
        samclip.load(path, backend, threads=1, cache_dir=tmp_path / "cache")
        for path, backend in (
            (honest, "onnxruntime"), (copy, "openvino"), (evil, "onnxruntime"),
        )
    ]  # fmt: skip
    ours, same, theirs = loaded
    names = theirs.vocabulary(NAMES)
    shared = same.vocabulary(NAMES)
    scene = ours.encode(picture)
    assert scene.classify(shared).names == tuple(NAMES)
    box = np.ones((1, 40, 60), bool)
    uses: list[Callable[[Any], object]] = [
        scene.classify,
        scene.semantic,
        lambda given: scene.name(box, given),
        lambda given: scene.segment(boxes=[0, 0, 9, 9], names=given),
        lambda given: scene.everything(given, points_per_side=1),
        ours.vocabulary,
    ]
    narrow = replace(names, embeddings=names.embeddings[:, :2], space="")
    for use in uses:
        with pytest.raises(VocabularyError, match=f"space {names.space[:12]}, and the model's is"):
            use(names)
        with pytest.raises(VocabularyError, match="have 2 dimensions, the model's text space 3"):
            use(narrow)
        use(replace(names, space=""))  # made by hand: its arrays fit
    for model in loaded:
        model.close()


def test_a_head_of_another_width_is_a_bundle_error(honest: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(honest, tmp_path / "odd")
    write_manifest(odd, lambda manifest: manifest["clip_head"].update(embed_dim=4))
    with pytest.raises(BundleError, match="in 4 dimensions and names in 3"):
        embed(odd, tmp_path / "cache")


@pytest.mark.parametrize("name", [TOKENIZER, "labels.json"])
def test_text_files_are_bounded_before_they_are_read(
    honest: Path, tmp_path: Path, name: str
) -> None:
    """The file is sparse: it takes no space on the disk, and would take it in memory."""
    size = 2**32
    large = shutil.copytree(honest, tmp_path / "large")
    with (large / name).open("ab") as file:
        file.truncate(size)
    (large / "labels.f32").write_bytes(b"")

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"size": size, "sha256": "0" * 64}
        if name != TOKENIZER:
            empty = hashlib.sha256(b"").hexdigest()
            manifest["files"]["labels.f32"] = {"size": 0, "sha256": empty}
            manifest["text"].update(labels=name, label_embeddings="labels.f32")

    if name == TOKENIZER:
        (large / "labels.f32").unlink()
    write_manifest(large, change)
    with pytest.raises(BundleError, match=r"4,294,967,296 bytes; for what it is, at most"):
        embed(large, tmp_path / "cache")


def test_a_database_whose_table_is_a_view_without_end(honest: Path, tmp_path: Path) -> None:
    right = embed(honest, tmp_path / "other")
    (tmp_path / "cache").mkdir()
    with sqlite3.connect(tmp_path / "cache" / FILE_NAME) as database:
        database.executescript(
            "CREATE VIEW embeddings AS WITH RECURSIVE r(k) AS "
            "(SELECT 1 UNION ALL SELECT k + 1 FROM r) "
            "SELECT k AS key, k AS vector, k AS digest, k AS used FROM r"
        )
    np.testing.assert_allclose(embed(honest, tmp_path / "cache"), right, rtol=1e-6)
