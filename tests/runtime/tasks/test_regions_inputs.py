from __future__ import annotations

import numpy as np
import pytest
from fakes import MASK_SIZE, flag
from region_fakes import region_model

from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.regions import region_boxes, regions_of, whole_image

SCALE = np.asarray([256 / 200, 164 / 128] * 2)  # input pixels per pixel of the flag, XYXY


@pytest.fixture
def scene() -> Scene:
    return region_model().encode(flag())


def boxes_of(scene: Scene, masks: Masks) -> np.ndarray:
    return region_boxes(masks, scene.features.letterbox)


def test_a_prompts_own_box_is_taken(scene: Scene) -> None:
    own = np.asarray([(20, 30, 120.5, 90), (0, 0, 33, 44)])
    found = boxes_of(scene, scene.segment(boxes=own))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, own * SCALE, rtol=1e-6)
    with_points = scene.segment(points=[[(50, 50)], [(9, 9)]], boxes=own)
    np.testing.assert_allclose(boxes_of(scene, with_points), own * SCALE, rtol=1e-6)


def test_points_and_masks_take_the_box_of_the_predicted_mask(scene: Scene) -> None:
    masks = scene.segment(points=[(100, 64)])
    np.testing.assert_allclose(boxes_of(scene, masks), masks.boxes * SCALE, rtol=1e-6)
    again = scene.segment(mask=masks.low_res_logits)
    assert again.prompts[0].box is not None  # what the decoder was prompted with, not the user's
    np.testing.assert_allclose(boxes_of(scene, again), again.boxes * SCALE, rtol=1e-6)


def test_rows_keep_their_prompts(scene: Scene) -> None:
    own = np.asarray([(20, 30, 120, 90), (0, 0, 33, 44), (90, 90, 99, 99)])
    masks = scene.segment(boxes=own)[np.asarray([2, 0])]
    np.testing.assert_allclose(boxes_of(scene, masks), own[[2, 0]] * SCALE, rtol=1e-6)


def test_an_empty_mask_has_a_cell_around_its_point(scene: Scene) -> None:
    nothing = np.full((MASK_SIZE, MASK_SIZE), -1e6)
    masks = scene.segment(points=[(50, 75)], mask=nothing)
    np.testing.assert_allclose(boxes_of(scene, masks), [(48, 80.09375, 80, 112.09375)], rtol=1e-6)
    boxed = scene.segment(boxes=(50, 75, 60, 85), mask=nothing)
    np.testing.assert_allclose(
        boxes_of(scene, boxed), np.asarray([(50, 75, 60, 85)]) * SCALE, rtol=1e-6
    )


def test_masks_are_those_of_the_decoder(scene: Scene) -> None:
    masks = scene.segment(boxes=[(20, 30, 120, 90), (0, 0, 33, 44)])
    found = regions_of(masks, scene.features.letterbox, (MASK_SIZE, MASK_SIZE)).low_res_masks
    assert masks.low_res_logits is not None
    np.testing.assert_array_equal(found[:, 0], masks.low_res_logits)


def test_masks_from_elsewhere_are_sampled_on_its_grid(scene: Scene) -> None:
    masks = scene.segment(boxes=[(20, 30, 120, 90), (0, 0, 33, 44)])
    given = scene.name(masks.masks, ["red"])
    found = regions_of(given, scene.features.letterbox, (MASK_SIZE, MASK_SIZE)).low_res_masks
    assert set(np.unique(found)) == {-1, 1}
    assert masks.low_res_logits is not None
    differ = (found[:, 0] > 0) != (masks.low_res_logits > 0)
    assert differ.mean() < 0.01  # at edges: a pixel's middle, against bilinear upscaling
    finer = regions_of(
        masks, scene.features.letterbox, (2 * MASK_SIZE, 2 * MASK_SIZE)
    ).low_res_masks
    assert finer.shape == (2, 1, 2 * MASK_SIZE, 2 * MASK_SIZE)
    assert ((finer[:, 0, 1::2, 1::2] > 0) != (found[:, 0] > 0)).mean() < 0.01  # half a cell apart


def test_nothing_gives_no_regions(scene: Scene) -> None:
    none = scene.name(np.zeros((0, 128, 200), bool), ["red"])
    regions = regions_of(none, scene.features.letterbox, (MASK_SIZE, MASK_SIZE))
    assert regions.boxes.shape == (0, 4)
    assert regions.low_res_masks.shape == (0, 1, MASK_SIZE, MASK_SIZE)


@pytest.mark.parametrize("size", [(128, 200), (200, 128), (1, 5000), (64, 64)])
def test_the_whole_image_has_no_padding(size: tuple[int, int]) -> None:
    letterbox = Letterbox.fit(size, 256)
    region = whole_image(letterbox, (64, 64))
    height, width = letterbox.input_size
    assert region.boxes.tolist() == [[0, 0, width, height]]
    inside = region.low_res_masks[0, 0] > 0
    rows, columns = ((np.arange(64) + 0.5) * 4 < side for side in (height, width))
    np.testing.assert_array_equal(inside, np.outer(rows, columns))
