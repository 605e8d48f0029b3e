"""Annotated objects in views of photos, and the prompts that are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_ovsam_run import COLOURS, annotated, colour_labels, write_annotated

from samclip.errors import InputError
from samclip.merge.instances import (
    Annotations,
    Instances,
    named_regions,
    no_instances,
    prompt_instances,
    read_annotations,
)
from samclip.merge.sources import FolderSource
from samclip.merge.teachers.regions import RegionTargets
from samclip.merge.views import View

BOX = (10, 8, 35, 40)  # of every rectangle, in pixels of its photo


@pytest.fixture
def found(tmp_path: Path) -> Annotations:
    return annotated(tmp_path)


def seen(annotations: Annotations, index: int, **changes: object) -> Instances:
    """A photo's instances, at its own scale in a square of 128 px, or as `changes` say."""
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
    with pytest.raises(InputError, match="category 99, and does not list both"):
        read_annotations(file, [folder])
    file.write_text("[]")
    with pytest.raises(InputError, match="no annotations in COCO's format"):
        read_annotations(file, [folder])


def test_outlines_of_another_size_are_refused(found: Annotations) -> None:
    view = View((30, 30), (0, 0, 30, 30), 64)
    with pytest.raises(InputError, match="belongs to a photo"):
        found.shown(found.photos.key(0), view, colour_labels())


def blocks() -> Instances:
    """Three instances in a square of 64 px."""
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 8:, :8] = masks[2, 2:4, 10:15] = True
    boxes = torch.tensor([[0, 0, 16, 16], [0, 32, 32, 64], [40, 8, 60, 16]]).float()
    return Instances(masks, boxes, torch.tensor([0, 2, -1]))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_prompts_take_turns(count: int) -> None:
    prompted = prompt_instances(blocks(), count, 0.5, torch.Generator().manual_seed(0))
    assert prompted is not None
    assert len(prompted.prompts) == len(prompted.chosen) == count
    times = torch.bincount(prompted.chosen, minlength=3)
    assert int(times.max() - times.min()) <= 1
    half = count // 2 if count != 3 else 2  # half of 3 is rounded to the even 2
    corners = prompted.prompts.coords[:half].reshape(half, 4)
    assert torch.equal(corners, prompted.boxes[:half])
    for chosen, prompt in zip(prompted.chosen[half:], prompted.prompts.coords[half:], strict=True):
        x, y = (int(c) // 4 for c in prompt[0])
        assert prompted.instances.masks[chosen, y, x]
    assert torch.equal(prompted.labels, blocks().labels[prompted.chosen])


def test_a_picture_without_instances_has_no_prompts() -> None:
    assert prompt_instances(no_instances(64), 4, 0.5, torch.Generator()) is None


def test_regions_take_the_nearest_name() -> None:
    labels = colour_labels()
    regions = RegionTargets(blocks().masks, labels.text[[3, 2, 0]], torch.ones(3))
    named = named_regions(regions, 64, labels)
    assert named.labels.tolist() == [2, 1, 0]
    assert torch.equal(named.boxes, blocks().boxes)
    nothing = RegionTargets(blocks().masks[:0], labels.text[:0], torch.ones(0))
    assert len(named_regions(nothing, 64, labels)) == 0
