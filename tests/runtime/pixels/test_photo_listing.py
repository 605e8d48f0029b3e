"""Images of a folder, found by their content; what is left out has a reason and a count."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samclip.errors import ImageError
from samclip.runtime.pixels.image import load_image
from samclip.runtime.pixels.photo_listing import list_photos

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
DNG = b"II*\0\x08\0\0\0" + bytes(64)


def write(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    images = {"a.jpg": "JPEG", "b.jfif": "JPEG", "C.JPE": "JPEG", "d.mpo": "JPEG", "e.gif": "GIF"}
    images |= {"f": "PNG", "g.heic": "JPEG", "h.txt": "WEBP", "i.TIF": "TIFF", "sub/j.jpg": "JPEG"}
    images |= {".hidden.jpg": "JPEG", ".thumbnails/k.jpg": "JPEG"}
    for name, kind in images.items():
        write(folder / name, kind)
    for name, data in {"real.heic": HEIC, "raw.DNG": DNG, "notes.txt": b"no image"}.items():
        (folder / name).write_bytes(data)
    for name in (".DS_Store", "._a.jpg", "damaged.png", "empty"):
        (folder / name).touch()
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "linked.jpg").symlink_to("a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


IMAGES = ["C.JPE", "a.jpg", "b.jfif", "d.mpo", "damaged.png", "e.gif", "f", "g.heic", "h.txt"]
IMAGES += ["i.TIF", "linked.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_content_decides_and_every_other_file_has_a_reason(folder: Path) -> None:
    listing = list_photos(folder)
    assert [path.name for path in listing.paths] == IMAGES
    assert {
        reason.partition(",")[0]: sorted(names) for reason, names in listing.left_out.items()
    } == {
        "folders": ["sub"],
        "hidden images": [".hidden.jpg"],
        "a HEIC image": ["real.heic"],
        "camera raw files": ["raw.DNG"],
        "links that lead nowhere": ["dangling.jpg"],
        "files that cannot be read": ["circle.jpg"],
        "pipes": ["pipe.jpg"],
        "files that are not images": ["empty", "notes.txt"],
    }
    for path in listing.paths:  # every listed file is read, or is called like an image
        if path.name != "damaged.png":
            assert load_image(path).shape == (4, 6, 3)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_subfolders_too_where_they_are_asked_for(folder: Path) -> None:
    below = list_photos(folder, below=True)
    assert [path.relative_to(folder).as_posix() for path in below.paths] == [*IMAGES, "sub/j.jpg"]
    assert not any(reason.startswith("folders") for reason in below.left_out)


def test_one_line_says_what_was_left_out(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"{index}{'x' * 60 * (index == 0)}.txt").touch()
    write(tmp_path / "a.png", "PNG")
    line = list_photos(tmp_path).describe_left_out()
    long = "0" + "x" * 38 + "…"
    assert line == (
        f"left out of {tmp_path}: files that are not images: 5 ({long}, 1.txt, 2.txt and 2 more)"
    )


def test_nothing_left_out_is_not_mentioned(tmp_path: Path) -> None:
    write(tmp_path / "a.png", "PNG")
    (tmp_path / ".DS_Store").touch()
    listing = list_photos(tmp_path)
    assert (listing.describe_left_out(), listing.counts) == ("", {})


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ImageError, match="cannot be listed: Permission denied"):
        list_photos(tmp_path)
