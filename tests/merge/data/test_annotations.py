"""Annotated objects in views of photos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_ovsam_run import COLOURS, annotated, colour_labels, write_annotated

from samclip.errors import InputError
from samclip.merge.data.annotations import Annotations, Instances, read_annotations
from samclip.merge.data.photo_sources import FolderSource
from samclip.merge.data.views import View

BOX = (10, 8, 35, 40)  # of every rectangle, in pixels of its photo


@pytest.fixture
def found(tmp_path: Path) -> Annotations:
    return annotated(tmp_path)


def seen(annotations: Annotations, index: int, **changes: object) -> Instances:
    """A photo's instances, at its own scale in a square of 128 px unless `changes` differ."""
    photo = annotations.photos.photo(index)
    height, width = photo.shape[:2]
    size = max(height, width)
    size += -size % 4
    options = {"box": (0, 0, width, height), "size": size, **changes}
    view = View((height, width), **options)  # type: ignore[arg-type]
    return annotations.shown(annotations.photos.key(index), view, colour_labels())


def test_names_and_outlines_are_those_of_the_file(found: Annotations) -> None:
    assert found.categories == COLOURS
    assert len(found.photos) == 6
    instances = seen(found, 0)
    colour = int(found.photos.photo(0)[20, 20].argmax())
    assert instances.labels.tolist() == [colour]


def test_crops_flips_and_scales_move_the_outline(found: Annotations) -> None:
    crop = seen(found, 1, box=(8, 4, 48, 44), size=80)  # 40 x 40 pixels, shown at twice the size
    x0, y0, x1, y1 = (2 * (edge - start) for edge, start in zip(BOX, (8, 4, 8, 4), strict=True))
    assert crop.boxes.tolist() == [[x0, y0, x1, y1]]
    flipped = seen(found, 1, box=(8, 4, 48, 44), size=80, flip=True)
    assert flipped.boxes.tolist() == [[80 - x1, y0, 80 - x0, y1]]
    assert torch.equal(flipped.masks, crop.masks.flip(2))
    assert crop.masks.shape == (1, 20, 20)
    inside = crop.masks[0, (y0 + 4) // 4 : y1 // 4 - 1, (x0 + 4) // 4 : x1 // 4 - 1]
    assert inside.all()
    assert int(crop.masks.sum()) == pytest.approx((x1 - x0) * (y1 - y0) / 16, rel=0.15)


def test_what_a_view_hardly_shows_is_left_out(found: Annotations) -> None:
    assert len(seen(found, 2, box=(34, 0, 50, 40))) == 0  # one column of it
    assert len(seen(found, 2, box=(36, 0, 50, 40))) == 0


def test_categories_outside_the_vocabulary_have_no_name(tmp_path: Path) -> None:
    file = write_annotated(tmp_path)
    content = json.loads(file.read_text())
    content["categories"][2]["name"] = "mauve"
    file.write_text(json.dumps(content))
    found = read_annotations(file, [FolderSource(tmp_path / "annotated")])
    labels = {int(seen(found, index).labels[0]) for index in range(6)}
    assert labels == {0, 1, -1}


def test_crowds_are_left_out(tmp_path: Path) -> None:
    file = write_annotated(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    found = read_annotations(file, [FolderSource(tmp_path / "annotated")])
    assert len(found.photos) == 5


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    file = write_annotated(tmp_path)
    folder = FolderSource(tmp_path / "annotated")
    with pytest.raises(InputError, match="cannot be read"):
        read_annotations(tmp_path / "none.json", [folder])
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["file_name"] = f"elsewhere/{image['file_name']}"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="none of the photos"):
        read_annotations(file, [folder])
    content["annotations"][0]["category_id"] = 99
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="category 99, but does not list both"):
        read_annotations(file, [folder])
    file.write_text("[]")
    with pytest.raises(InputError, match="no annotations in COCO's format"):
        read_annotations(file, [folder])


def test_outlines_of_another_size_are_refused(found: Annotations) -> None:
    view = View((30, 30), (0, 0, 30, 30), 64)
    with pytest.raises(InputError, match="belongs to a photo"):
        found.shown(found.photos.key(0), view, colour_labels())
