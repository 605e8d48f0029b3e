from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from PIL import Image

from samclip.errors import ImageError, InputError, WriteError
from samclip.runtime.results.mask_files import fit_file_name, write_labels, write_masks
from samclip.runtime.results.masks import Masks
from samclip.runtime.results.palette import colour

BOXES = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]


@pytest.fixture
def masks() -> Masks:
    return fake_model().encode(flag()).segment(boxes=BOXES)


def read(path: Path) -> tuple[str, np.ndarray]:
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)


def test_each_mask_is_a_file_of_two_values(masks: Masks, tmp_path: Path) -> None:
    paths = masks.save_masks(tmp_path / "new" / "folder", "street.v2")
    assert [path.name for path in paths] == [f"street.v2.{n}.png" for n in ("000", "001", "002")]
    for path, mask in zip(paths, masks.masks, strict=True):
        mode, values = read(path)
        assert mode == "L"
        np.testing.assert_array_equal(values, mask * np.uint8(255))
    assert sorted(paths[0].parent.iterdir()) == paths


def test_names_sort_as_masks_do_however_many_there_are(tmp_path: Path) -> None:
    many = write_masks([np.ones((1, 2), bool)] * 1001, 1001, tmp_path, "m")
    assert (many[0].name, many[-1].name) == ("m.0000.png", "m.1000.png")
    assert many == sorted(many)
    assert write_masks([], 0, tmp_path / "none", "m") == []


@pytest.mark.parametrize("stem", ["", "../out", "a/b", "/etc/x", "a\0b", 5, None])
def test_a_stem_never_becomes_a_path(stem: Any, masks: Masks, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stem"):
        masks.save_masks(tmp_path / "inner", stem)
    assert not list(tmp_path.iterdir())


def test_odd_stems_stay_in_the_folder(masks: Masks, tmp_path: Path) -> None:
    for stem in (".", "..", "-rf", "a\nb", "杯"):
        assert {path.parent for path in masks.save_masks(tmp_path, stem)} == {tmp_path}


@pytest.mark.parametrize("folder", [5, None, "", "a\0b"])
def test_folders_that_are_none(folder: Any, masks: Masks) -> None:
    with pytest.raises(InputError, match="folder"):
        masks.save_masks(folder, "a")


def test_a_folder_that_is_a_file(masks: Masks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WriteError):
        masks.save_masks(tmp_path / "file", "a")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("letter", ["n", "杯", "\udcff"])
def test_names_that_are_too_long_are_cut_and_stay_apart(
    letter: str, masks: Masks, tmp_path: Path
) -> None:
    long = [letter * 255 + end for end in ("a", "b")]
    paths = [path for stem in long for path in masks.save_masks(tmp_path, stem)]
    assert len(set(paths)) == len(list(tmp_path.iterdir())) == 6
    assert all(len(os.fsencode(path.name)) <= 255 for path in paths)
    assert fit_file_name("n" * 251, ".png") == "n" * 251 + ".png"
    assert re.fullmatch(r"n{242}~[0-9a-f]{8}\.png", fit_file_name("n" * 252, ".png"))


@pytest.mark.parametrize(("count", "none"), [(3, 255), (255, 255), (256, 65535), (65535, 65535)])
def test_labels_are_the_values_of_the_file(count: int, none: int, tmp_path: Path) -> None:
    labels = np.array([[0, count - 1, -1], [1, 1, count // 2]], np.int32)
    path = write_labels(labels, count, tmp_path / "map.PNG")
    mode, values = read(path)
    assert mode == ("P" if none == 255 else "I;16")
    np.testing.assert_array_equal(values, np.where(labels < 0, none, labels))
    if none == 255:
        with Image.open(path) as picture:
            seen = np.asarray(picture.convert("RGB"))
        assert tuple(seen[0, 0]) == colour(0)
        assert tuple(seen[0, 1]) == colour(count - 1)
        assert tuple(seen[0, 2]) == (0, 0, 0)


def test_the_map_of_a_scene(tmp_path: Path) -> None:
    answer = fake_model().encode(flag()).semantic(["red", "green", "blue"], background=0.9)
    assert (answer.labels == -1).any()
    path = answer.save_labels(str(tmp_path / "map.png"))
    np.testing.assert_array_equal(read(path)[1], np.where(answer.labels < 0, 255, answer.labels))


def test_label_files_that_cannot_be(tmp_path: Path) -> None:
    labels = np.zeros((2, 2), np.int32)
    with pytest.raises(ImageError, match=r"\.png"):
        write_labels(labels, 2, tmp_path / "map.jpg")
    with pytest.raises(InputError, match="65,535"):
        write_labels(labels, 65536, tmp_path / "map.png")
    with pytest.raises(InputError, match="path"):
        write_labels(labels, 2, None)  # type: ignore[arg-type]
    with pytest.raises(WriteError):
        write_labels(labels, 2, tmp_path / "none" / "map.png")
    assert not list(tmp_path.iterdir())
