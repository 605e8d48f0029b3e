"""Paths of pictures: never that of an image, and no path twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samclip.cli import output_paths
from samclip.cli.image_list import ImageList
from samclip.cli.output_paths import PICTURE_SUFFIXES, plan_pictures
from samclip.disk import safe_names
from samclip.errors import InputError
from samclip.runtime.results.drawing import save_picture
from samclip.runtime.results.mask_files import write_masks

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


@pytest.mark.parametrize("output", ["out", "v1.2", "out.json/", "out.d/"])
def test_an_output_without_a_suffix_or_with_a_slash_is_a_folder(output: str) -> None:
    assert plan_pictures(ONE, output, "segment") == (Path(output) / "street.segment.png",)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("x.json", r"--json > FILE.*with a slash: x\.json/"),
        ("x.npy", "--masks FOLDER"),
        ("x.pdf", r"written as \.jpeg, \.jpg, \.png"),
        ("out.d", "with a slash: out.d/"),
        ("", "is empty"),
        ("-", "pictures are not printed"),
        ("https://example.com/x.png", "--output https://example.com/x.png is an address"),
    ],
)
def test_an_output_that_is_no_picture_is_refused_and_nothing_made(
    output: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        plan_pictures(ONE, output, "segment")
    assert not list(tmp_path.iterdir())


def test_existing_folder_with_an_image_suffix_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "frames.png"
    folder.mkdir()
    assert plan_pictures(ONE, folder, "segment") == (folder / "street.segment.png",)


def test_one_file_for_many_images_is_refused() -> None:
    with pytest.raises(InputError, match=r"out\.png is one file.*Give a folder"):
        plan_pictures(TWO, Path("out.png"), "segment")


def test_a_format_that_cannot_be_written_is_refused_early() -> None:
    with pytest.raises(InputError, match=r"x\.gif: pictures are written as \.jpeg, \.jpg, \.png"):
        plan_pictures(ONE, Path("x.gif"), "segment")


def test_formats_are_those_of_the_drawing_module() -> None:
    from samclip.runtime.results.drawing import FORMATS

    assert set(FORMATS) == PICTURE_SUFFIXES


def test_picture_never_replaces_its_image(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    with pytest.raises(InputError, match="would replace the image"):
        plan_pictures(ImageList((image,), many=False), tmp_path / "x" / ".." / "a.png", "segment")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan_pictures(ONE, Path("~/a.png"), "segment") == (tmp_path / "a.png",)


@pytest.mark.parametrize("name", ["b.jpg", "notes.png"])
def test_a_picture_never_replaces_what_samclip_did_not_write(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.write_bytes(b"\xff\xd8\xff another photo")
    with pytest.raises(InputError, match=r"is there already, and samclip did not write it"):
        plan_pictures(ONE, place, "segment")
    folder = tmp_path / "out"
    folder.mkdir()
    place.rename(folder / "yard.segment.png")
    with pytest.raises(InputError, match=r"yard\.segment\.png is there already"):
        plan_pictures(TWO, folder, "segment")


def test_a_picture_replaces_that_of_an_earlier_run(tmp_path: Path) -> None:
    (picture,) = plan_pictures(ONE, tmp_path / "out.png", "segment")
    save_picture(np.zeros((8, 8, 3), np.uint8), picture)
    assert plan_pictures(ONE, tmp_path / "out.png", "segment") == (picture,)


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_another_name_of_an_image_is_the_image(tmp_path: Path) -> None:
    image = tmp_path / "photo.jpg"
    save_picture(np.zeros((8, 8, 3), np.uint8), image)  # may be replaced, were it not the input
    (tmp_path / "hard.jpg").hardlink_to(image)
    (tmp_path / "soft.jpg").symlink_to(image)
    for name in ("photo.jpg", "hard.jpg", "soft.jpg"):
        with pytest.raises(InputError, match="would replace the image"):
            plan_pictures(ImageList((image,), many=False), tmp_path / name, "segment")


def test_names_are_planned_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    fold = safe_names.fold

    def count(name: str) -> str:
        nonlocal calls
        calls += 1
        return fold(name)

    monkeypatch.setattr(safe_names, "fold", count)
    images = ImageList(tuple(Path(str(n), "a.jpg") for n in range(5000)), many=True)
    stems = list(output_paths.unique_stems(images))
    assert stems[:3] == ["a", "a-2", "a-3"]
    assert len(set(stems)) == 5000
    assert calls <= 4 * 5000


def test_stems_differ_in_more_than_case() -> None:
    images = ImageList((Path("a.jpg"), Path("A.png"), Path("e\u0301.png"), Path("\xe9.png")), True)
    assert list(output_paths.unique_stems(images)) == ["a", "A-2", "e\u0301", "\xe9-2"]


def test_mask_files_replace_those_of_the_same_image_only(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    shape = np.ones((4, 4), np.bool_)

    def run(images: ImageList, count: int) -> None:
        place = output_paths.plan_masks(images, folder, numbered=True)
        for index, path in enumerate(images.paths):
            place.save(
                index, path, lambda where, stem: write_masks([shape] * count, count, where, stem)
            )

    run(TWO, 3)
    run(ONE, 1)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["street.000.png", "yard.000.png", "yard.001.png", "yard.002.png"]
    (folder / "street.001.png").write_bytes(b"a photo of that name")
    with pytest.raises(InputError, match=r"street\.001\.png is there already.*another --masks"):
        output_paths.plan_masks(ONE, folder, numbered=True)
    assert output_paths.plan_masks(ONE, folder, numbered=False).earlier == {}


@pytest.mark.parametrize("folder", ["masks.png", "masks.json", "", "-", "s3://a/b"])
def test_masks_go_to_a_folder(folder: str) -> None:
    with pytest.raises(InputError, match="--masks"):
        output_paths.plan_masks(ONE, folder, numbered=True)


@given(st.lists(st.sampled_from(["a.jpg", "a.png", "b/a.jpg", "a-2.jpg", "b.jpg"]), min_size=1))
def test_no_two_pictures_share_a_path(names: list[str]) -> None:
    images = ImageList(tuple(Path("in") / name for name in names), many=True)
    pictures = plan_pictures(images, Path("out"), "segment")
    assert len(set(pictures)) == len(names)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_a_folder_that_cannot_be_written_to_is_refused_early() -> None:
    with pytest.raises(InputError, match=r"/proc/self/none.*--json"):
        plan_pictures(ONE, Path("/proc/self/none/out.png"), "segment")
