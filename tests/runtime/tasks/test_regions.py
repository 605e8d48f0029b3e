from __future__ import annotations

import numpy as np
import pytest
from fakes import fake_model, flag

from samclip.errors import ClosedError, PromptError
from samclip.runtime.scene import Scene

ALL = ("red", "green", "blue")


@pytest.fixture
def scene() -> Scene:
    return fake_model().encode(flag())


def bands() -> np.ndarray:
    """A mask for each band of the flag, 3x128x200."""
    edges = (0, 64, 136, 200)
    masks = np.zeros((3, 128, 200), bool)
    for row in range(3):
        masks[row, :, edges[row] : edges[row + 1]] = True
    return masks


def test_masks_of_the_caller_take_the_name_of_what_they_cover(scene: Scene) -> None:
    named = scene.name(bands(), ALL)
    assert named.names == ALL
    assert named.areas.tolist() == [128 * 64, 128 * 72, 128 * 64]
    assert named.boxes.tolist() == [[0, 0, 64, 128], [64, 0, 136, 128], [136, 0, 200, 128]]
    assert np.isnan(named.scores).all()
    np.testing.assert_array_equal(named.masks, bands())


def test_one_mask_and_none(scene: Scene) -> None:
    assert scene.name(bands()[1], ALL).names == ("green",)
    assert scene.name(bands()[:0], ALL).names == ()


def test_answers_of_the_scene_are_named_as_if_names_had_been_given_at_once(scene: Scene) -> None:
    boxes = [(32, 0, 90, 128), (150, 5, 195, 120)]
    later, at_once = (
        scene.name(scene.segment(boxes=boxes), ALL),
        scene.segment(boxes=boxes, names=ALL),
    )
    assert later.names == at_once.names
    np.testing.assert_array_equal(later.name_probabilities, at_once.name_probabilities)
    np.testing.assert_array_equal(later.scores, at_once.scores)


def test_empty_masks_of_everything_take_the_token_of_their_point(scene: Scene) -> None:
    found = scene.everything(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
    named = scene.name(found, ALL)
    assert (
        named.names
        == scene.everything(
            ALL, points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0
        ).names
    )


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((2, 100, 200), bool), "2x100x200 bool"),
        (np.zeros((128, 200), np.uint8), "128x200 uint8"),
        ([np.zeros((128, 200), bool), np.zeros((3, 3), bool)], "unequal shape"),
        (np.zeros((1, 1, 128, 200), bool), "1x1x128x200"),
    ],
)
def test_other_shapes_and_types_are_refused(scene: Scene, masks: object, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        scene.name(masks, ALL)  # type: ignore[arg-type]


def test_masks_of_another_image_are_refused(scene: Scene) -> None:
    other = fake_model().encode(np.zeros((50, 50, 3), np.uint8)).segment(boxes=(5, 5, 20, 20))
    with pytest.raises(PromptError, match=r"\(50, 50\)"):
        scene.name(other, ALL)


def test_a_closed_scene_names_nothing(scene: Scene) -> None:
    scene.close()
    with pytest.raises(ClosedError):
        scene.name(bands(), ALL)
