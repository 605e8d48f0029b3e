"""Damaged compiled models of OpenVINO: never mapped, but compiled again from the verified graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import COUNTS, draw_bits, flip_bit
from figures import Figures

from samclip.engines.openvino.cache import BlobDamagedError, blob_folder, map_blob, write_blob

KEY = "a" * 64
BLOB = np.random.default_rng(3).bytes(20_000)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A blob and its sidecar, in a fresh cache."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    folder = blob_folder()
    folder.mkdir()
    write_blob(folder, KEY, lambda stream: stream.write(BLOB))
    (blob,), (sidecar,) = folder.glob("*.blob"), folder.glob("*.json")
    return {"blob": blob, "sidecar": sidecar}


def is_found() -> bool:
    """Return whether the blob is mapped, and check that a mapped one is what was written."""
    try:
        found = map_blob(blob_folder(), KEY)
    except BlobDamagedError:
        return False
    if found is not None:
        assert found[:] == BLOB
        found.close()
    return found is not None


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("which", ["blob", "sidecar"])
def test_truncation(which: str, count: int, files: dict[str, Path], figures: Figures) -> None:
    whole = files[which].read_bytes()
    for length in np.linspace(0, len(whole) - 1, count).astype(int):
        files[which].write_bytes(whole[:length])
        assert not is_found()
    files[which].write_bytes(whole)
    assert is_found()
    figures.add(f"OpenVINO: compiled model's {which} truncated", count=count, found="refused")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("which", ["blob", "sidecar"])
def test_flipped_bits(which: str, count: int, files: dict[str, Path], figures: Figures) -> None:
    """The first digits of a digest name the blob: with others, there is none, or another one."""
    whole = files[which].read_bytes()
    for bit in draw_bits(whole, count):
        files[which].write_bytes(flip_bit(whole, bit))
        assert not is_found()
    name = f"OpenVINO: compiled model's {which} with a flipped bit"
    figures.add(name, count=count, found="refused by SHA-256")
