"""Labelled photos of COCO files, label maps and folders, read to named regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samclip.errors import InputError
from samclip.merge.config.stages import LabelSource
from samclip.merge.data.label_sources import parse_concepts, read_label_source

SIZE = (40, 60)  # h, w


def save_photo(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), shade, np.uint8)).save(path)


def make_coco(folder: Path) -> None:
    for number in (1, 2):
        save_photo(folder / "images" / f"{number}.png", number)
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    images = [
        {"id": n, "file_name": f"{n}.png", "height": 40, "width": 60, "license": n} for n in (1, 2)
    ]
    found = [
        {
            "id": 7 * n + c,
            "image_id": n,
            "category_id": c,
            "segmentation": square,
            "bbox": [10, 10, 20, 20],
            "area": 400,
            "iscrowd": 0,
        }
        for n in (1, 2)
        for c in (1, 2)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "wine_glass"}]
    content = {"images": images, "annotations": found, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def test_coco_files_give_outlines_of_the_licensed_photos(tmp_path: Path) -> None:
    make_coco(tmp_path)
    source = LabelSource(kind="coco", folder=str(tmp_path), licenses=(2,), names={"cat": ""})
    [photo] = read_label_source(source)
    assert (photo.path.name, photo.names) == ("2.png", ("wine glass",))
    [mask] = photo.read()
    assert mask is not None and mask.shape == SIZE
    assert mask[12:28, 12:28].all() and mask.sum() == pytest.approx(400, rel=0.1)  # a border pixel
    assert len(read_label_source(LabelSource(kind="coco", folder=str(tmp_path)))) == 2


def test_label_maps_give_a_region_for_each_class_of_enough_pixels(tmp_path: Path) -> None:
    drawn = np.zeros(SIZE, np.uint8)
    drawn[:20], drawn[30, 30] = 1, 2
    save_photo(tmp_path / "images" / "a.png", 5)
    (tmp_path / "labels").mkdir()
    Image.fromarray(drawn).save(tmp_path / "labels" / "a.png")
    (tmp_path / "classes.json").write_text('{"0": "background", "1": "sofa", "2": "cat"}')
    source = LabelSource(
        kind="maps", folder=str(tmp_path), names={"background": "", "sofa": "couch"}
    )
    [photo] = read_label_source(source)
    assert photo.names == ("couch",)
    [mask] = photo.read()
    assert mask is not None and np.array_equal(mask, drawn == 1)
    (tmp_path / "labels" / "a.png").unlink()
    with pytest.raises(InputError, match="has no label map"):
        read_label_source(source)


def test_folders_name_whole_photos_and_classes_can_be_limited(tmp_path: Path) -> None:
    for number in range(3):
        save_photo(tmp_path / "sea_horse" / f"{number}.png", number)
    save_photo(tmp_path / "ant" / "x.png", 9)
    photos = read_label_source(LabelSource(kind="folders", folder=str(tmp_path), per_class=2))
    assert sorted(photo.names for photo in photos) == [("ant",), ("sea horse",), ("sea horse",)]
    assert all(photo.read() == [None] for photo in photos)
    assert [photo.key for photo in photos] == sorted(photo.key for photo in photos)
    with pytest.raises(InputError, match="no labelled photo"):
        read_label_source(
            LabelSource(kind="folders", folder=str(tmp_path), names={"ant": "", "sea_horse": ""})
        )


def test_concepts_have_a_line_each() -> None:
    concepts = parse_concepts(["cat; kitten", "", "dog"])
    assert concepts.names == ("cat", "dog")
    assert concepts.places() == {"cat": 0, "kitten": 0, "dog": 1}
    for lines in (["cat", "cat; kitten"], [" ; "]):
        with pytest.raises(InputError, match="taught names"):
            parse_concepts(lines)
