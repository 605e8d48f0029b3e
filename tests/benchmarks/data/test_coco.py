from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from made_data import Made, disc, rectangle, stripes, write_coco

from samclip.benchmarks.data.coco import read_coco, read_json
from samclip.errors import InputError

PHOTO = stripes(0, 1)


def test_photos_come_in_name_order_with_their_objects(tmp_path: Path) -> None:
    first, second = disc(50, 60, 20), rectangle(10, 20, 40, 60)
    write_coco(
        tmp_path,
        {
            "b.png": (PHOTO, [Made("blue", first), Made("green", second)]),
            "a.png": (PHOTO, [Made("red", second)]),
            "none.png": (PHOTO, []),
        },
    )
    coco = read_coco(tmp_path)
    assert coco.names == ("red", "green", "blue")
    assert [photo.path.name for photo in coco.photos] == ["a.png", "b.png"]
    assert [found.category for found in coco.photos[1].objects] == [2, 1]
    assert coco.photos[0].objects[0].box == (10, 20, 40, 60)
    np.testing.assert_array_equal(coco.photos[1].objects[0].mask(), first)
    np.testing.assert_array_equal(coco.photos[1].pixels(), PHOTO)
    assert coco.photos[1].objects[0].area == first.sum()


def test_the_three_forms_of_an_outline_are_one(tmp_path: Path) -> None:
    mask = rectangle(10, 20, 40, 60)
    polygons = {"segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]]}
    parts = {
        "segmentation": [[10, 20, 25, 20, 25, 60, 10, 60], [25, 20, 40, 20, 40, 60, 25, 60], [1, 2]]
    }
    flat = mask.T.reshape(-1)  # column by column
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    plain = {"segmentation": {"size": [256, 256], "counts": counts}}
    objects = [Made("red", mask, changes=changes) for changes in ({}, polygons, parts, plain)]
    coco = read_coco(write_coco(tmp_path, {"a.png": (PHOTO, objects)}))
    for found in coco.photos[0].objects:
        np.testing.assert_array_equal(found.mask(), mask)


def test_crowds_and_objects_of_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    mask = rectangle(10, 20, 40, 60)
    objects = [
        Made("red", mask),
        Made("red", mask, crowd=True),
        Made("red", np.zeros_like(mask)),
        Made("red", mask, changes={"segmentation": []}),
        Made("red", mask, box=(10, 20, 10, 60)),
    ]
    coco = read_coco(write_coco(tmp_path, {"a.png": (PHOTO, objects)}))
    assert len(coco.photos[0].objects) == 1
    assert coco.left_out == {"crowds": 1, "objects without a pixel or a box": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_id": 99}, "category 99"),
        ({"image_id": 99}, "image 99"),
        ({"bbox": [1, 2, 3]}, "is not COCO annotations"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, r"\(5, 5\)"),
        ({"iscrowd": 1}, "no object"),
    ],
)
def test_annotations_of_nothing_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    made = Made("red", rectangle(10, 20, 40, 60), changes=changes)
    with pytest.raises(InputError, match=message):
        read_coco(write_coco(tmp_path, {"a.png": (PHOTO, [made])}))


def test_a_photo_that_is_missing_or_of_another_size_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, {"a.png": (PHOTO, [Made("red", rectangle(1, 2, 9, 9))])})
    document = json.loads((tmp_path / "instances.json").read_text())
    document["images"][0]["width"] = 300
    document["annotations"][0]["segmentation"] = [[1, 2, 9, 2, 9, 9]]
    (tmp_path / "instances.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"\(256, 300\)"):
        read_coco(tmp_path).photos[0].pixels()
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(InputError, match="there is no photo"):
        read_coco(tmp_path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"instances\.json cannot be read"):
        read_coco(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices")
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_annotations_that_are_no_file_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(InputError, match=f"is {kind}; expected a plain file"):
        read_json(path, dict, "anything")
