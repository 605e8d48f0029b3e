"""IMAGE arguments, which become files in a stable order."""

from __future__ import annotations

from pathlib import Path

import pytest

from samclip.cli.arguments import ImageList, find_images, plan_pictures
from samclip.errors import ImageError


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


def test_pictures_of_long_names_can_be_written(tmp_path: Path) -> None:
    """One long name must not end a series: its picture's name has a suffix more."""
    photos = [tmp_path / ("n" * 250 + end) for end in (".jpg", ".png")]
    for photo in photos:
        photo.touch()
    pictures = plan_pictures(ImageList(tuple(photos), many=True), tmp_path / "out", "everything")
    assert len(set(pictures)) == 2
    assert all(len(picture.name) <= 255 for picture in pictures)
