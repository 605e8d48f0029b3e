"""Folders as COCO and LVIS publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_data import Made, rectangle, stripes, write_coco

from samclip.benchmarks.data.coco import read_coco
from samclip.errors import InputError

FOUND = [Made("red", rectangle(0, 0, 9, 9)), Made("blue", rectangle(20, 20, 60, 60))]


def write_published(
    folder: Path, annotations: str, changes: dict[str, Any] | None = None, photos: str = "val2017"
) -> Path:
    """One photo with two objects, and one without, in `photos`/."""
    made = {"a.png": (stripes(0), FOUND), "b.png": (stripes(1), [])}
    write_coco(folder, made)
    (folder / "images").rename(folder / "moved")
    (folder / photos).parent.mkdir(parents=True, exist_ok=True)
    (folder / "moved").rename(folder / photos)
    document = json.loads((folder / "instances.json").read_text())
    (folder / "instances.json").unlink()
    if changes is not None:
        for image in document["images"]:
            name = image.pop("file_name")
            image |= {"coco_url": f"http://images.cocodataset.org/val2017/{name}", **changes}
        for category, letter in zip(document["categories"], "rcf", strict=True):
            category |= {"frequency": letter, "name": f"{category['name']}_(colour)"}
    (folder / annotations).parent.mkdir(parents=True, exist_ok=True)
    (folder / annotations).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("photos", ["val2017", "images/val2017", "images"])
def test_coco(tmp_path: Path, photos: str) -> None:
    write_published(tmp_path, "annotations/instances_val2017.json", photos=photos)
    coco = read_coco(tmp_path)
    assert coco.layout == "COCO"
    assert [photo.path.name for photo in (*coco.photos, *coco.bare)] == ["a.png", "b.png"]
    assert (coco.photos[0].number, coco.bare[0].number) == (7, 8)
    assert coco.categories.frequencies == (None, None, None)
    coco.photos[0].pixels()


@pytest.mark.parametrize("annotations", ["lvis_v1_val.json", "annotations/lvis_v1_val.json"])
def test_lvis(tmp_path: Path, annotations: str) -> None:
    known = {"neg_category_ids": [2], "not_exhaustive_category_ids": [3]}
    write_published(tmp_path, annotations, known)
    coco = read_coco(tmp_path)
    assert coco.layout == "LVIS"
    assert coco.names == ("red (colour)", "green (colour)", "blue (colour)")
    assert coco.categories.frequencies == ("r", "c", "f")
    (photo,) = coco.photos
    assert photo.path == tmp_path / "val2017" / "a.png"
    assert (photo.absent, photo.incomplete) == ({1}, {2})


def test_annotations_may_be_named(tmp_path: Path) -> None:
    known = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    write_published(tmp_path, "annotations/lvis_v1_minival.json", known)
    with pytest.raises(InputError, match=r"instances\.json cannot be read"):
        read_coco(tmp_path)
    assert read_coco(tmp_path, Path("annotations/lvis_v1_minival.json")).layout == "LVIS"
    elsewhere = tmp_path / "annotations" / "lvis_v1_minival.json"
    assert read_coco(tmp_path, elsewhere).layout == "LVIS"
    with pytest.raises(InputError, match=r"other\.json cannot be read"):
        read_coco(tmp_path, Path("other.json"))


def test_crowds_stand_apart_and_areas_are_as_stated(tmp_path: Path) -> None:
    crowd = Made("red", rectangle(100, 100, 200, 200), crowd=True)
    stated = Made("blue", rectangle(20, 20, 60, 60), changes={"area": 1550.5})
    (photo,) = read_coco(
        write_coco(tmp_path, {"a.png": (stripes(0), [stated, crowd, FOUND[0]])})
    ).photos
    assert [found.area for found in photo.crowds] == [10_000]
    assert [(found.area, found.stated_area) for found in photo.objects] == [
        (1600, 1550.5),
        (81, 81),
    ]
