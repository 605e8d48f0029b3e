"""Formats told by a file's first bytes, whatever its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_files import KINDS, REFUSED

from samclip.runtime.pixels.formats import HEAD_BYTES, describe, is_image_file, read_head, sniff

NAMES = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WebP", "BMP": "BMP", "TIFF": "TIFF", "GIF": "GIF"}
NAMES |= dict.fromkeys(("PPM", "PGM", "PBM"), "PPM")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_that_is_read_has_its_formats_name(name: str, tmp_path: Path) -> None:
    data = KINDS[name][0]
    assert sniff(data[:HEAD_BYTES]) == NAMES[name.split(maxsplit=1)[0]]
    (tmp_path / "photo.jfif").write_bytes(data)
    assert is_image_file(tmp_path / "photo.jfif")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("HEIC", "HEIC"),
        ("JPEG 2000", "JPEG 2000"),
        ("PDF", "PDF"),
        ("EPS", "PostScript"),
        ("SVG", "SVG"),
        ("ICO", "icon"),
        ("WAV", "audio"),
        ("ZIP", "ZIP"),
        ("text", "text"),
        ("zeros", "zeros"),
    ],
)
def test_what_other_files_are(name: str, what: str, tmp_path: Path) -> None:
    data = REFUSED[name]
    assert sniff(data[:HEAD_BYTES]) is None
    assert what in describe(data[:HEAD_BYTES])
    (tmp_path / "photo.jpg").write_bytes(data)
    assert not is_image_file(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"II*\0\x10\0\0\0CR\x02\0", "CR2"),
        (b"\0\0\0\x18ftypcrx ", "CR3"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"BM is the start of a sentence.", "text"),
        (b"P1anning", "text"),
        (b"GIF8", "text"),
        (b"", "empty"),
    ],
)
def test_first_bytes_of_other_files(head: bytes, what: str) -> None:
    assert sniff(head) is None
    assert what in describe(head)


def test_what_is_not_a_plain_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("missing")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "link", "a\0b"):
        assert not is_image_file(path)
    assert read_head(tmp_path / "pipe") == b""
