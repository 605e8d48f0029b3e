"""Paths of pictures: never that of an image, and no path twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samclip.cli.arguments import PICTURE_SUFFIXES, ImageList, plan_pictures
from samclip.errors import InputError

ONE = ImageList((Path("in/street.jpg"),), many=False)
TWO = ImageList((Path("in/street.jpg"), Path("in/yard.png")), many=True)


def test_one_image_without_output_goes_to_the_current_folder() -> None:
    assert plan_pictures(ONE, None, "segment") == (Path("street.segment.png"),)


def test_many_images_without_output_get_a_folder() -> None:
    pictures = plan_pictures(TWO, None, "semantic")
    folder = Path("samclip-semantic")
    assert pictures == (folder / "street.semantic.png", folder / "yard.semantic.png")


def test_output_with_an_image_suffix_is_a_file() -> None:
    assert plan_pictures(ONE, Path("out/x.JPG"), "segment") == (Path("out/x.JPG"),)


@pytest.mark.parametrize("output", ["out", "out.d", "v1.2"])
def test_any_other_output_is_a_folder(output: str) -> None:
    assert plan_pictures(ONE, Path(output), "segment") == (Path(output) / "street.segment.png",)


def test_existing_folder_with_an_image_suffix_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "frames.png"
    folder.mkdir()
    assert plan_pictures(ONE, folder, "segment") == (folder / "street.segment.png",)


def test_one_file_for_many_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"out\.png is one file.*Give a folder"):
        plan_pictures(TWO, Path("out.png"), "segment")


def test_a_format_that_cannot_be_written_is_refused_early() -> None:
    with pytest.raises(InputError, match=r"x\.webp: pictures are written as \.jpeg, \.jpg, \.png"):
        plan_pictures(ONE, Path("x.webp"), "segment")


def test_formats_are_those_of_the_drawing_module() -> None:
    from samclip.runtime.results.drawing import FORMATS

    assert set(FORMATS) == PICTURE_SUFFIXES


def test_picture_never_replaces_an_image(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    with pytest.raises(InputError, match="would replace the image"):
        plan_pictures(ImageList((image,), many=False), tmp_path / "x" / ".." / "a.png", "segment")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan_pictures(ONE, Path("~/a.png"), "segment") == (tmp_path / "a.png",)


@given(st.lists(st.sampled_from(["a.jpg", "a.png", "b/a.jpg", "a-2.jpg", "b.jpg"]), min_size=1))
def test_no_two_pictures_share_a_path(names: list[str]) -> None:
    images = ImageList(tuple(Path("in") / name for name in names), many=True)
    pictures = plan_pictures(images, Path("out"), "segment")
    assert len(set(pictures)) == len(names)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_refused_early() -> None:
    with pytest.raises(InputError, match=r"/proc/self/none.*--json"):
        plan_pictures(ONE, Path("/proc/self/none/out.png"), "segment")
