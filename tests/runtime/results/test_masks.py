from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag

from samclip.errors import CapabilityError, InputError
from samclip.runtime.results.masks import MaskIndexError, Masks

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


def test_the_best_come_first(masks: Masks, named: Masks) -> None:
    scored = replace(masks, scores=np.array([0.5, np.nan, 0.9], np.float32))
    assert scored.best(2).prompt_index.tolist() == [2, 0]
    assert len(scored.best(9)) == 3
    sure = replace(named, name_probabilities=np.array([0.2, 0.9, 0.4], np.float32))
    assert sure.best(2).names == ("green", "blue")
    for count in (0, 1.5, "all"):
        with pytest.raises(InputError):
            sure.best(count)  # type: ignore[arg-type]


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
    probabilities = detections.data["class_probability"]
    np.testing.assert_array_equal(probabilities, named.name_probabilities)
    assert detections[1:].data["class_probability"].tolist() == probabilities[1:].tolist()
    np.testing.assert_array_equal(detections.mask, named.masks)
    np.testing.assert_array_equal(detections.xyxy, named.boxes)
    unnamed = masks.to_supervision()
    assert unnamed.class_id.tolist() == [0, 0, 0]
    assert unnamed.data["class_name"].tolist() == ["object"] * 3
    for found in (masks[:0].to_supervision(), named[:0].to_supervision()):
        assert len(found) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", ["named", "unnamed", "given", "none"])
def test_every_annotator_draws(case: str, masks: Masks, named: Masks) -> None:
    supervision = pytest.importorskip("supervision")
    given = fake_model().encode(flag()).name(masks.masks, ALL)
    found = {"named": named, "unnamed": masks, "given": given, "none": masks[:0]}[case]
    detections = found.to_supervision()
    for kind in ("MaskAnnotator", "BoxAnnotator", "LabelAnnotator", "PolygonAnnotator"):
        annotator = getattr(supervision, kind)()
        drawn = annotator.annotate(flag().copy(), detections)
        assert (drawn != flag()).any() == bool(len(found))


def test_supervision_is_optional(masks: Masks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(CapabilityError, match="pip install"):
        masks.to_supervision()


def test_captions(masks: Masks, named: Masks) -> None:
    assert masks.captions() == ("0.90", "0.90", "0.90")
    plain = masks.draw(captions="none")
    np.testing.assert_array_equal(masks.draw(), plain)  # no caption without a name
    assert (masks.draw(captions="all") != plain).any()
    assert named.captions() == ("red 100%", "green 100%", "blue 100%")


def test_scores_leave_as_confidences_and_never_as_nan(masks: Masks, named: Masks) -> None:
    high = replace(masks, scores=np.array([1.0078, 0.5, -0.01], np.float32))
    assert high.scores[0] == np.float32(1.0078)
    assert high.confidences.tolist() == [1, 0.5, 0]
    assert high.captions() == ("1.00", "0.50", "0.00")
    assert [entry["score"] for entry in high.to_dict()["masks"]] == [1, 0.5, 0]
    assert [entry["score"] for entry in high.to_coco()] == [1, 0.5, 0]
    unknown = replace(named, scores=np.full(3, np.nan, np.float32))
    for entries in (unknown.to_dict()["masks"], unknown.to_coco()):
        assert [entry["score"] for entry in entries] == [None] * 3
        json.dumps(entries, allow_nan=False)
    assert replace(unknown, class_ids=None).captions() == ("", "", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_confidences_of_supervision(masks: Masks) -> None:
    pytest.importorskip("supervision")
    high = replace(masks, scores=np.array([1.0078, 0.5, 0.2], np.float32)).to_supervision()
    assert high.confidence.tolist() == pytest.approx([1, 0.5, 0.2])
    unknown = replace(masks, scores=np.full(3, np.nan, np.float32)).to_supervision()
    assert unknown.confidence is None


WRONG_KEYS = [
    1.5,
    None,
    ...,
    "red",
    (0, 1),
    True,
    np.bool_(True),
    [True, False],
    [0.0, 1.0],
    [[0, 1], [1, 2]],
    [[0], [1, 2]],
    slice(0.5, 2),
    np.zeros((3, 128, 200), bool),
    {0, 1},
    object(),
]


@pytest.mark.parametrize("key", WRONG_KEYS, ids=lambda key: type(key).__name__)
def test_wrong_keys_are_typed_errors(named: Masks, key: Any) -> None:
    with pytest.raises(InputError, match="masks are chosen by"):
        named[key]


@pytest.mark.parametrize("key", [3, -4, [0, 7], np.array([2**40])])
def test_keys_out_of_range_are_typed_errors_and_index_errors(named: Masks, key: Any) -> None:
    with pytest.raises(MaskIndexError, match="there is no mask") as found:
        named[key]
    assert isinstance(found.value, IndexError)
    assert isinstance(found.value, InputError)
    with pytest.raises(MaskIndexError):
        named[:0][0]
