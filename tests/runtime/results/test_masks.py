from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from pycocotools import mask as coco_mask

from samclip.errors import CapabilityError
from samclip.runtime.results.masks import Masks

ALL = ["red", "green", "blue"]
BOXES = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]


@pytest.fixture
def masks() -> Masks:
    return fake_model().encode(flag()).segment(boxes=BOXES)


@pytest.fixture
def named() -> Masks:
    return fake_model().encode(flag()).segment(boxes=BOXES, names=ALL)


def test_masks_are_unpacked_once(masks: Masks) -> None:
    assert masks.masks is masks.masks
    assert len(masks) == 3
    np.testing.assert_array_equal(masks.areas, masks.masks.sum((1, 2)))
    assert masks.names is None
    assert masks.trained_head is None


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        (np.array([2, 0]), [2, 0]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        (slice(0, 0), []),
    ],
)
def test_selecting(named: Masks, key: Any, rows: list[int]) -> None:
    chosen = named[key]
    assert chosen.names == tuple(ALL[row] for row in rows)
    np.testing.assert_array_equal(chosen.masks, named.masks[rows])
    np.testing.assert_array_equal(chosen.boxes, named.boxes[rows])
    assert chosen.prompt_index.tolist() == rows
    assert chosen.low_res_logits is not None
    assert len(chosen.low_res_logits) == len(rows)
    assert chosen.draw().shape == flag().shape


def test_iterating_and_the_end(named: Masks) -> None:
    assert [one.names for one in named] == [(name,) for name in ALL]
    with pytest.raises(IndexError):
        named[3]


def test_automatic_masks_stay_what_they_are() -> None:
    found = fake_model().encode(flag()).everything(points_per_side=2, stability_score_thresh=0.5)
    some = found[found.points[:, 0] > 100]
    assert type(some) is type(found)
    assert 0 < len(some) < len(found)
    assert len(some.records()) == len(some.stability_scores) == len(some.crop_boxes) == len(some)


# pycocotools 2.0.11 decodes with a warning of numpy 2.4.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_annotations_read_back(named: Masks) -> None:
    annotations = json.loads(json.dumps(named.to_coco(image_id=7)))
    assert [a["category_id"] for a in annotations] == [1, 2, 3]
    assert [a["category_name"] for a in annotations] == ALL
    assert {a["image_id"] for a in annotations} == {7}
    assert [a["id"] for a in annotations] == [1, 2, 3]
    for row, annotation in enumerate(annotations):
        rle = annotation["segmentation"]
        np.testing.assert_array_equal(coco_mask.decode(rle), named.masks[row])
        assert annotation["area"] == named.areas[row] == coco_mask.area(rle)
        np.testing.assert_allclose(annotation["bbox"], coco_mask.toBbox(rle))


def test_coco_without_names(masks: Masks) -> None:
    annotations = masks.to_coco()
    assert [a["category_id"] for a in annotations] == [1, 1, 1]
    assert "category_name" not in annotations[0]
    assert masks[:0].to_coco() == []


def test_plain_values(masks: Masks, named: Masks) -> None:
    plain = json.loads(json.dumps(named.to_dict()))
    assert plain["size"] == [128, 200]
    assert [entry["name"] for entry in plain["masks"]] == ALL
    assert plain["trained_head"] is True
    assert "trained_head" not in masks.to_dict()
    assert set(masks.to_dict()["masks"][0]) == {
        "score",
        "box",
        "area",
        "prompt_index",
        "segmentation",
    }


# supervision 0.31 builds on matplotlib, whose import may warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_supervision_detections(masks: Masks, named: Masks) -> None:
    pytest.importorskip("supervision")
    detections = named.to_supervision()
    assert len(detections) == 3
    assert detections.data["class_name"].tolist() == ALL
    assert detections.class_id.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(detections.mask, named.masks)
    np.testing.assert_array_equal(detections.xyxy, named.boxes)
    assert masks.to_supervision().class_id is None
    assert len(masks[:0].to_supervision()) == 0


def test_supervision_is_optional(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(CapabilityError, match="pip install"):
        masks.to_supervision()


def test_captions(masks: Masks, named: Masks) -> None:
    assert masks.captions() == ("0.90", "0.90", "0.90")
    assert named.captions() == ("red 100%", "green 100%", "blue 100%")
