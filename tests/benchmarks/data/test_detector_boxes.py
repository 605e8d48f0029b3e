from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_data import Made, rectangle, stripes, write_coco

from samclip.benchmarks.data.coco import CocoFolder, read_coco
from samclip.benchmarks.data.detector_boxes import DetectedBox, read_detections
from samclip.errors import InputError


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """Two photos, of numbers 7 and 8; the second has no object."""
    photos = {
        "a.png": (stripes(0), [Made("red", rectangle(0, 0, 9, 9))]),
        "b.png": (stripes(0), []),
    }
    return read_coco(write_coco(tmp_path / "coco", photos))


def results(path: Path, *boxes: tuple[int, int, list[float], float]) -> Path:
    names = ("image_id", "category_id", "bbox", "score")
    path.write_text(json.dumps([dict(zip(names, box, strict=True)) for box in boxes]))
    return path


def test_boxes_come_by_photo_surest_first(tmp_path: Path, coco: CocoFolder) -> None:
    file = results(
        tmp_path / "boxes.json",
        (7, 1, [10, 20, 30, 40], 0.5),
        (7, 3, [200, 200, 100, 100], 0.75),
        (8, 2, [0, 0, 5, 5], 0.1),
    )
    found = read_detections(file, coco)
    (photo,), (bare,) = coco.photos, coco.bare
    assert found.of(photo) == (
        DetectedBox(2, (200, 200, 256, 256), 0.75),  # cut off at the photo's border
        DetectedBox(0, (10, 20, 40, 60), 0.5),
    )
    assert [box.category for box in found.of(bare)] == [1]
    assert found.left_out == {}


def test_what_is_of_no_use_is_left_out_and_counted(tmp_path: Path, coco: CocoFolder) -> None:
    boxes: list[Any] = [(7, 1, [0, 0, 9, 9], number / 200) for number in range(120)]
    boxes += [(99, 1, [0, 0, 9, 9], 0.9), (7, 1, [0, 0, 0, 9], 0.9), (7, 1, [300, 0, 9, 9], 0.9)]
    found = read_detections(results(tmp_path / "boxes.json", *boxes), coco)
    assert len(found.of(coco.photos[0])) == 100
    assert found.of(coco.photos[0])[0].score == 119 / 200
    assert found.left_out == {"boxes of other photos": 1, "boxes of nothing": 2}


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((7, 9, [0, 0, 9, 9], 0.5), "the category 9"),
        ((99, 1, [0, 0, 9, 9], 0.5), "has no box in a photo"),
        ((7, 1, [0, 0, 9], 0.5), "is not COCO results"),
    ],
)
def test_boxes_of_something_else_are_refused(
    tmp_path: Path, coco: CocoFolder, box: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_detections(results(tmp_path / "boxes.json", box), coco)
