from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_data import SIDE, stripes
from made_layouts import write_ade20k, write_coco_stuff, write_context, write_voc

from samclip.benchmarks.data.label_folder import IGNORED, read_label_folder
from samclip.benchmarks.data.label_layouts import LAYOUTS, read_class_list
from samclip.errors import InputError

PHOTO = stripes(0, 1)


def map_of(*values: int) -> np.ndarray:
    """A map of vertical stripes of equal width with these numbers."""
    return np.repeat(np.asarray(values), SIDE // len(values))[None].repeat(SIDE, axis=0)


def along(labels: np.ndarray, count: int) -> list[int]:
    return labels[0, :: SIDE // count].tolist()


def test_voc(tmp_path: Path) -> None:
    write_voc(tmp_path, {"2007_000002": (PHOTO, map_of(0, 15, 20, 255))}, "train")
    values = map_of(0, 1, 20, 255)
    write_voc(tmp_path, {"2007_000033": (PHOTO, values), "2007_000001": (PHOTO, values)})
    folder = read_label_folder(tmp_path)
    assert folder.layout == "PASCAL VOC, val"
    assert (len(folder.names), folder.background) == (21, 0)
    assert [photo.path.name for photo in folder.photos] == ["2007_000001.jpg", "2007_000033.jpg"]
    assert along(folder.photos[0].labels(), 4) == [0, 1, 20, IGNORED]
    assert (folder.names[1], folder.names[20]) == ("aeroplane", "tvmonitor")
    assert [photo.path.stem for photo in read_label_folder(tmp_path, split="train").photos] == [
        "2007_000002"
    ]


def test_context_lies_beside_voc(tmp_path: Path) -> None:
    photos = {"2008_000002": (PHOTO, map_of(0, 1, 59, 255))}
    write_voc(tmp_path, photos)
    write_context(tmp_path, photos)
    folder = read_label_folder(tmp_path)
    assert folder.layout == "PASCAL Context, val"
    assert (len(folder.names), folder.background) == (60, 0)
    assert along(folder.photos[0].labels(), 4) == [0, 1, 59, IGNORED]
    assert (folder.names[2], folder.names[59]) == ("bag", "wood")
    voc = read_label_folder(tmp_path, "voc")
    with pytest.raises(InputError, match=r"the class 59, which is none of the 21"):
        voc.photos[0].labels()


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    write_ade20k(tmp_path, {"ADE_val_00000001": (PHOTO, map_of(0, 1, 2, 150))})
    folder = read_label_folder(tmp_path)
    assert folder.layout == "ADE20K, validation"
    assert (len(folder.names), folder.background) == (150, None)
    assert along(folder.photos[0].labels(), 4) == [IGNORED, 0, 1, 149]
    assert (folder.names[0], folder.names[149]) == ("wall", "flag")


@pytest.mark.parametrize(
    ("images", "maps"), [("images", "annotations"), (".", "stuffthingmaps"), (".", "annotations")]
)
def test_coco_stuff_skips_numbers(tmp_path: Path, images: str, maps: str) -> None:
    photos = {"000000000139": (PHOTO, map_of(0, 10, 12, 89, 91, 181, 255, 255))}
    write_coco_stuff(tmp_path, photos, images, maps)
    folder = read_label_folder(tmp_path)
    assert folder.layout == "COCO-Stuff, val2017"
    assert (len(folder.names), folder.background, len(folder.photos)) == (171, None, 1)
    labels = along(folder.photos[0].labels(), 8)
    assert labels == [0, 10, 11, 79, 80, 170, IGNORED, IGNORED]
    names = [folder.names[label] for label in labels if label != IGNORED]
    assert names == ["person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood"]


def test_a_number_that_was_taken_out_of_coco_is_refused(tmp_path: Path) -> None:
    write_coco_stuff(tmp_path, {"a": (PHOTO, map_of(0, 11))})
    with pytest.raises(InputError, match="the class 11"):
        read_label_folder(tmp_path).photos[0].labels()


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": (PHOTO, map_of(0))})
    with pytest.raises(InputError, match=r"test\.txt cannot be read"):
        read_label_folder(tmp_path, split="test")
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"there is no .*a\.jpg"):
        read_label_folder(tmp_path)
    with pytest.raises(InputError, match=r"has no images/validation/"):
        read_label_folder(tmp_path, "ade20k")
    write_ade20k(tmp_path / "ade", {"a": (PHOTO, map_of(0))})
    (tmp_path / "ade" / "annotations" / "validation" / "a.png").unlink()
    with pytest.raises(InputError, match="has no photo of 'validation'"):
        read_label_folder(tmp_path / "ade")


@pytest.mark.parametrize(
    ("kind", "classes"), [("voc", 21), ("context", 60), ("ade20k", 150), ("coco-stuff", 171)]
)
def test_class_lists_are_whole_and_no_text_stands_for_two(kind: str, classes: int) -> None:
    found = LAYOUTS[kind].classes
    assert len(found) == classes
    assert len({one.value for one in found}) == len({one.name for one in found}) == classes
    texts = [text for one in found for text in one.texts]
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip() and text for text in texts)


def test_coco_s_numbers_are_those_of_its_categories() -> None:
    names = {found.value + 1: found.name for found in read_class_list("coco_stuff.txt")}
    known = {1: "person", 13: "stop sign", 44: "bottle", 67: "dining table", 90: "toothbrush"}
    known |= {92: "banner", 118: "floor-wood", 133: "mirror-stuff", 149: "road", 155: "sea"}
    known |= {171: "wall-brick", 181: "window-other"}  # of COCO's panoptic categories
    assert {number: names[number] for number in known} == known
