"""COCO annotations and files, read back by pycocotools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from samclip import write_coco
from samclip.errors import InputError, WriteError
from samclip.runtime.results.coco_export import MAX_ID
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene

ALL = ["red", "green", "blue"]
BOXES = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]

# pycocotools 2.0.11 decodes with a warning of numpy 2.4.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def scene() -> Scene:
    return fake_model().encode(flag())


@pytest.fixture
def named(scene: Scene) -> Masks:
    return scene.segment(boxes=BOXES, names=ALL)


def test_annotations_read_back(named: Masks) -> None:
    annotations = json.loads(json.dumps(named.to_coco(image_id=7, first_id=30)))
    assert [a["category_id"] for a in annotations] == [1, 2, 3]
    assert [a["category_name"] for a in annotations] == ALL
    assert {a["image_id"] for a in annotations} == {7}
    assert [a["id"] for a in annotations] == [30, 31, 32]
    for row, annotation in enumerate(annotations):
        rle = annotation["segmentation"]
        np.testing.assert_array_equal(coco_mask.decode(rle), named.masks[row])
        assert annotation["area"] == named.areas[row] == coco_mask.area(rle)
        np.testing.assert_allclose(annotation["bbox"], coco_mask.toBbox(rle))


def test_annotations_without_names(scene: Scene) -> None:
    masks = scene.segment(boxes=BOXES)
    annotations = masks.to_coco()
    assert [a["category_id"] for a in annotations] == [1, 1, 1]
    assert "category_name" not in annotations[0]
    assert masks[:0].to_coco() == []
    assert [a["category_id"] for a in masks.to_coco(categories={"object": 9})] == [9] * 3


def test_ids_of_joined_lists_differ(scene: Scene, named: Masks, tmp_path: Path) -> None:
    """Lists of several images, and of several questions about one, joined without `first_id`."""
    lists = [
        *(named.to_coco(image_id=number) for number in (0, 1, 2, 1000)),
        *(scene.segment(boxes=[box]).to_coco(image_id=1) for box in BOXES),
        scene.segment(boxes=BOXES, names=["blue", "red"]).to_coco(image_id=1),
    ]
    joined = [annotation for each in lists for annotation in each]
    ids = [annotation["id"] for annotation in joined]
    assert len(set(ids)) == len(ids) == 18
    assert all(type(number) is int and 0 < number < 2**53 for number in ids)
    assert named.to_coco(image_id=1)[0]["id"] == lists[1][0]["id"], "the same answer, the same ids"
    images = [{"id": n, "width": 200, "height": 128, "file_name": "x"} for n in (0, 1, 2, 1000)]
    categories = [{"id": n, "name": str(n)} for n in (1, 2, 3)]
    path = tmp_path / "joined.json"
    path.write_text(json.dumps({"images": images, "annotations": joined, "categories": categories}))
    coco = COCO(str(path))
    assert len(coco.anns) == 18
    assert [a["image_id"] for a in coco.loadAnns(coco.getAnnIds(imgIds=[2]))] == [2, 2, 2]


def test_a_whole_file_has_ids_and_categories_of_its_own(named: Masks, tmp_path: Path) -> None:
    blue_first = fake_model().encode(flag()).segment(boxes=BOXES, names=["blue", "red"])
    unnamed = fake_model().encode(flag()[:64]).segment(boxes=[(5, 5, 50, 60)])

    def answers() -> Iterator[tuple[Any, Masks]]:
        yield "a.png", named
        yield Path("more") / "b.png", replace(blue_first, image=flag() // 2)
        yield "a.png", blue_first  # another question about the first picture
        yield "c.png", unnamed
        yield "empty.png", named[:0]

    path = write_coco(tmp_path / "coco.json", answers())
    coco = COCO(str(path))
    assert [image["file_name"] for image in coco.dataset["images"]] == [
        *("a.png", "more/b.png", "c.png", "empty.png"),
    ]
    assert coco.loadImgs([3])[0] == {"id": 3, "file_name": "c.png", "width": 200, "height": 64}
    assert sorted(coco.anns) == list(range(1, 11))
    assert [len(coco.getAnnIds(imgIds=[number])) for number in (1, 2, 3, 4)] == [6, 3, 1, 0]
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    assert names == {1: "red", 2: "green", 3: "blue", 4: "object"}
    for annotation in coco.anns.values():
        assert annotation.get("category_name", "object") == names[annotation["category_id"]]
        assert coco.annToMask(annotation).sum() == annotation["area"]
    found = coco.loadRes([a for a in coco.dataset["annotations"] if a["score"] is not None])
    assert len(found.anns) == 10


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image_id": -1}, "image_id"),
        ({"image_id": 1.5}, "image_id"),
        ({"image_id": "a.png"}, "image_id"),
        ({"image_id": True}, "image_id"),
        ({"image_id": 2**60}, "image_id"),
        ({"first_id": 0}, "first_id"),
        ({"first_id": MAX_ID}, "first_id"),
        ({"first_id": "1"}, "first_id"),
        ({"categories": ALL}, "categories"),
        ({"categories": {"red": 1, "gren": 2, "blue": 3}}, "did you mean 'gren'"),
        ({"categories": {"red": 1, "green": "2", "blue": 3}}, "category 'green'"),
    ],
)
def test_ids_that_cannot_be(named: Masks, arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        named.to_coco(**arguments)
    assert named.to_coco(np.int64(3), first_id=np.int32(5))[0]["id"] == 5


def test_files_that_cannot_be(named: Masks, tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    wrong: list[Any] = [5, named, [named], ["ab"], [("a.png", None)], [(5, named)], [("", named)]]
    for answers in wrong:
        with pytest.raises(InputError, match="pairs"):
            write_coco(path, answers)
    with pytest.raises(InputError, match="two pictures"):
        write_coco(path, [("a.png", named), ("a.png", replace(named, image=flag() // 2))])
    with pytest.raises(WriteError):
        write_coco(tmp_path / "none" / "coco.json", [("a.png", named)])
    with pytest.raises(InputError, match="path"):
        write_coco(None, [("a.png", named)])  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
