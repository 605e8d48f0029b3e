"""Large graphs are kept as ONNX Runtime optimised them: what is read again gives the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import samclip
from samclip.engines.backend_names import ONNXRUNTIME
from samclip.engines.onnxruntime import kept
from samclip.runtime.bundles.bundle import Bundle

IMAGE = np.random.default_rng(0).random((1, 3, 1024, 1024), np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    return tmp_path / ONNXRUNTIME


def embed() -> NDArray[np.float32]:
    with samclip.load(backend=ONNXRUNTIME) as model:
        (embedding,) = model._pool.compute("encoder", {"image": IMAGE}, ["image_embeddings"])
    return embedding


def refuse_encoders(bundle: Bundle, graph: str, *rest: Any) -> Any:
    assert graph != "encoder", "the encoder is read from the bundle"
    return SOURCE(bundle, graph, *rest)


SOURCE = Bundle.source


def test_what_is_kept_gives_the_same_bits_and_what_is_damaged_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = embed()
    (place,) = folder.iterdir()
    assert place.stat().st_mode & 0o077 == 0
    with monkeypatch.context() as patched:
        patched.setattr(Bundle, "source", refuse_encoders)
        np.testing.assert_array_equal(embed(), first)  # bit for bit: the same graph and kernels
    with (place / kept.WEIGHTS).open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    np.testing.assert_array_equal(embed(), first)
    assert "is removed and made again: its bytes are not those" in caplog.text
    assert kept.hash_own(place / kept.WEIGHTS) in (place / kept.SIDECAR).read_text()


def test_what_was_used_longest_ago_is_removed(folder: Path) -> None:
    for number, name in enumerate("abc"):
        (folder / name).mkdir(parents=True)
        (folder / name / kept.SIDECAR).write_bytes(b"{}")
        (folder / name / kept.WEIGHTS).write_bytes(bytes(100))
        os.utime(folder / name / kept.SIDECAR, (number, number))
    kept._keep_within(folder, 250, folder / "a")
    assert {path.name for path in folder.iterdir()} == {"a", "c"}
