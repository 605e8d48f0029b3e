"""IMAGE arguments, which become images in a stable order, or an error that says what to do."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from samclip.cli.image_list import STDIN, find_images
from samclip.errors import ImageError, InputError
from samclip.runtime.pixels import decode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "c.webp", "notes.txt", ".hidden.png", "._b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.png").touch()
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_folder_gives_its_images_in_name_order(folder: Path) -> None:
    images = find_images([folder])
    assert [path.name for path in images.paths] == ["a.png", "b.JPG", "c.webp"]
    assert images.many


def test_every_format_that_is_read_is_looked_for(tmp_path: Path) -> None:
    names = ["a.bmp", "b.gif", "c.pbm", "d.pgm", "e.PNM", "f.ppm", "g.tif", "h.TIFF"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in find_images([tmp_path]).paths] == names


def test_one_file_is_not_many(folder: Path) -> None:
    assert find_images([folder / "a.png"]).many is False


def test_files_keep_the_order_given(folder: Path) -> None:
    given = [folder / "c.webp", folder / "sub", folder / "a.png"]
    assert [path.name for path in find_images(given).paths] == ["c.webp", "d.png", "a.png"]


def test_a_file_of_another_suffix_is_taken_when_named(folder: Path) -> None:
    assert find_images([folder / "notes.txt"]).paths == (folder / "notes.txt",)


def test_folder_of_one_image_is_many(folder: Path) -> None:
    assert find_images([folder / "sub"]).many


def test_subfolders_are_searched_when_asked(folder: Path) -> None:
    images = find_images([folder], recursive=True)
    names = [path.relative_to(folder).as_posix() for path in images.paths]
    assert names == ["a.png", "b.JPG", "c.webp", "sub/d.png"]


def test_patterns_are_expanded_where_the_shell_did_not(folder: Path) -> None:
    def names(pattern: str) -> list[str]:
        images = find_images([str(folder / pattern)])
        assert images.many
        return [path.relative_to(folder).as_posix() for path in images.paths]

    assert names("?.png") == ["a.png"]
    assert names("?.[pw]*") == ["a.png", "c.webp"]
    assert names("**/*d.png") == ["sub/d.png"]
    (folder / "[1].png").touch()
    assert find_images([folder / "[1].png"]).paths == (folder / "[1].png",)  # a file's own name
    with pytest.raises(ImageError, match=r"no file fits the pattern .*\*\.tif"):
        find_images([folder / "*.tif"])


def test_missing_file_is_refused_with_a_guess(folder: Path) -> None:
    with pytest.raises(ImageError, match=r"there is no image .*c\.wepb\. Did you mean .*c\.webp"):
        find_images([folder / "c.wepb"])


def test_missing_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ImageError, match="there is no image"):
        find_images([folder / "nowhere" / "a.png"])


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"holds no image.*\.jpeg"):
        find_images([tmp_path])


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert find_images([Path("~/a.png")]).paths == (folder / "a.png",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "https://example.com/a/photo.jpg?size=2&x",
            "curl -fL -o photo.jpg 'https://example.com/a/",
        ),
        ("HTTP://example.com", "curl -fL -o example.com HTTP://example.com"),
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg is an address, not a file. Download it first."),
        ("", "path of an image is empty"),
        ("a\0b.jpg", "holds a NUL"),
    ],
)
def test_what_is_no_path_keeps_its_text_and_says_what_to_do(given: str, expected: str) -> None:
    with pytest.raises(InputError) as refused:
        find_images([given])
    assert expected in str(refused.value)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_dangling_link_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    with pytest.raises(ImageError, match=r"link\.jpg is a link to gone\.jpg, which does not exist"):
        find_images([tmp_path / "link.jpg"])
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    with pytest.raises(ImageError, match="cannot be looked at"):
        find_images([tmp_path / "circle.jpg"])


def test_a_name_that_is_too_long_is_an_error_of_the_input(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="File name too long"):
        find_images([tmp_path / ("x" * 300)])


def test_a_name_with_a_tilde_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~tmp.jpg").touch()
    assert find_images(["~tmp.jpg"]).paths == (Path("~tmp.jpg"),)


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_dash_is_the_image_on_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = b"\xff\xd8\xff\xe0" + bytes(3_000_000)
    pipe(monkeypatch, photo)
    images = find_images(["-", str(folder / "a.png")])
    assert images.paths == (STDIN, folder / "a.png")
    assert (images.source(0), images.source(1)) == (photo, folder / "a.png")
    assert (images.stem(0), images.many) == ("stdin", True)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"no image" * 99, "is a text file, not an image")]
)
def test_stdin_without_an_image_is_an_error(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, data)
    with pytest.raises(ImageError, match=message):
        find_images(["-"])


def test_stdin_is_read_as_far_as_an_image_may_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_IMAGE_BYTES", 2**21)
    stream = io.BytesIO(b"\xff\xd8\xff" + bytes(2**24))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    with pytest.raises(ImageError, match="more than the 2,097,152 bytes"):
        find_images(["-"])
    assert stream.tell() <= 2**21 + 2**20 + 2**16


def test_stdin_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"\xff\xd8\xff")
    with pytest.raises(InputError, match="given 2 times"):
        find_images(["-", "-"])


def test_a_terminal_on_stdin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(InputError, match="Redirect a file"):
        find_images(["-"])
