"""Unlisted names in a bundle's folder: those of file managers are left alone, others refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_bundle import write_tiny_bundle

from samclip.errors import BundleError, IntegrityError, UnsafePathError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.files import MAX_DEPTH, check_path

OTHERS = [
    ".DS_Store", "._encoder.onnx", "._.DS_Store", ".localized", "Icon\r", ".Spotlight-V100",
    "Thumbs.db", "THUMBS.DB", "desktop.ini", "Desktop.ini", "System Volume Information",
    ".nfs000000000001", ".nfs00000000deadBEEF00000012", ".fuse_hidden0000000a00000001",
    ".smbdeleteAAA12", "@eaDir", "#recycle", "lost+found", ".directory", ".Trash-1000",
    ".snapshot", ".git", ".gitattributes",
]  # fmt: skip
OURS = [
    ".DS_Store.onnx", "DS_Store", "thumbs.dbx", ".nfs", ".nfsx", ".hidden", "eaDir", "extra.onnx",
    ".manifest.sig.0.partial", ".encoder.onnx.0000000000000000.partial", ".config", "~lock", "core",
]  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_file_managers_are_never_opened(tiny: Path, name: str) -> None:
    place = tiny / name
    place.write_bytes(b"anything")
    place.chmod(0)
    Bundle.open(tiny).verify()
    place.unlink()
    place.mkdir()
    (place / "encoder.onnx").symlink_to("/dev/zero")  # looked at by nobody
    Bundle.open(tiny).verify()
    (place / "encoder.onnx").unlink()
    place.rmdir()
    place.symlink_to("manifest.json")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        Bundle.open(tiny)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UnsafePathError, match="not a plain file"):
        Bundle.open(tiny)


@pytest.mark.parametrize("name", OURS)
def test_other_names_are_refused(tiny: Path, name: str) -> None:
    (tiny / name).write_bytes(b"")
    with pytest.raises(IntegrityError, match="not in its manifest"):
        Bundle.open(tiny)


def test_folders_in_folders(tiny: Path) -> None:
    """However deep they lie, and however deep the caller's own stack is."""
    place = tiny
    for _ in range(900):
        place = Path(os.path.join(place, "d"))  # noqa: PTH118 - quicker
    os.makedirs(place)  # noqa: PTH103
    with pytest.raises(IntegrityError, match=r"'d' is in .* but not in its manifest"):
        Bundle.open(tiny)
    check_path("/".join(["d"] * MAX_DEPTH))
    with pytest.raises(BundleError, match="more than 16 components"):
        check_path("/".join(["d"] * (MAX_DEPTH + 1)))
