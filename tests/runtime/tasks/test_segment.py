from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes import IOUS, MASK_SIZE, NAMES, FakeBackend, fake_model, flag

from samclip.engines.machine import free_memory
from samclip.errors import DeviceMemoryError, PromptError
from samclip.runtime import room
from samclip.runtime.pixels.prompts import MAX_PROMPTS
from samclip.runtime.predictor import SamPredictor
from samclip.runtime.scene import Scene
from samclip.runtime.tasks import segment as segmenting

SCALE = 256 / 200  # input pixels per pixel of the flag


@pytest.fixture
def scene() -> Scene:
    return fake_model().encode(flag())


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.indices((128, 200))
    return np.hypot((columns + 0.5) * SCALE - x * SCALE, (rows + 0.5) * SCALE - y * SCALE) < radius


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_a_box_gives_one_mask_of_its_own_shape(scene: Scene) -> None:
    masks = scene.segment(boxes=(20, 30, 120, 90))
    assert masks.masks.shape == (1, 128, 200)
    expected = np.zeros((128, 200), bool)
    expected[30:90, 20:120] = True
    assert iou(masks.masks[0], expected) > 0.97  # logits lie 3 pixels apart
    np.testing.assert_allclose(masks.boxes[0], [20, 30, 120, 90], atol=2)
    assert masks.scores.tolist() == pytest.approx([IOUS[0]])
    assert masks.areas[0] == masks.masks[0].sum()


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4), np.float32)])
def test_a_detector_that_found_nothing_gets_an_empty_answer(
    scene: Scene, boxes: Any, names: tuple[str, ...] | None, multimask: bool
) -> None:
    masks = scene.segment(boxes=boxes, names=names, multimask=multimask, return_logits=True)
    assert len(masks) == 0
    assert masks.masks.shape == (0, 128, 200)
    assert masks.boxes.shape == (0, 4)
    assert masks.low_res_logits is not None
    assert masks.low_res_logits.shape == (0, MASK_SIZE, MASK_SIZE)
    assert masks.logits is not None
    assert masks.logits.shape == (0, 128, 200)
    assert masks.names == (None if names is None else ())
    assert masks.draw().shape == (128, 200, 3)
    assert masks.to_dict()["masks"] == []
    assert masks.to_coco() == []


def test_a_lone_point_takes_the_best_of_three(scene: Scene) -> None:
    masks = scene.segment(points=[(100, 64)])
    assert masks.scores.tolist() == pytest.approx([0.95])  # output 2, radius 24
    assert iou(masks.masks[0], disc(100, 64, 24)) > 0.95  # logits lie 3 pixels apart


def test_several_points_take_the_single_mask_output(scene: Scene) -> None:
    masks = scene.segment(points=[(90, 64), (110, 64)])
    assert masks.scores.tolist() == pytest.approx([IOUS[0]])
    again = scene.segment(points=[(100, 64)], mask=masks.low_res_logits)
    assert again.scores.tolist() == pytest.approx([IOUS[0]])


def test_multimask_gives_three_rows_per_prompt(scene: Scene) -> None:
    masks = scene.segment(points=[[(50, 60)], [(150, 60), (152, 60)]], multimask=True)
    assert masks.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert masks.scores.tolist() == pytest.approx([*IOUS[1:], *IOUS[1:]])
    assert masks.areas[2] > masks.areas[1] > masks.areas[0]
    assert masks.low_res_logits is not None
    assert masks.low_res_logits.shape == (6, MASK_SIZE, MASK_SIZE)


def test_prompts_of_different_lengths_keep_their_order_and_their_masks(scene: Scene) -> None:
    points = [[(50, 60)], [(150, 60), (152, 60)], [(20, 20)], [(30, 30), (40, 40), (50, 50)]]
    together = scene.segment(points=points)
    for row, one in enumerate(points):
        alone = scene.segment(points=one)
        np.testing.assert_array_equal(together.masks[row], alone.masks[0])


def test_logits_are_those_of_the_mask(scene: Scene) -> None:
    masks = scene.segment(boxes=[(20, 30, 120, 90), (0, 0, 50, 50)], return_logits=True)
    assert masks.logits is not None
    assert masks.logits.dtype == np.float32
    np.testing.assert_array_equal(masks.logits > 0, masks.masks)
    assert scene.segment(boxes=(0, 0, 9, 9)).logits is None


def test_a_mask_alone_is_a_prompt(scene: Scene) -> None:
    low_res = scene.segment(boxes=(20, 30, 120, 90)).low_res_logits
    assert low_res is not None
    again = scene.segment(mask=low_res[0])
    np.testing.assert_allclose(again.boxes[0], [20, 30, 120, 90], atol=3)
    assert again.prompts[0].box is not None  # its own, in whole logits of 3.1 pixels
    np.testing.assert_allclose(again.prompts[0].box, [20, 30, 120, 90], atol=3.2)


@pytest.mark.parametrize("padded", [False, True])
def test_a_mask_alone_that_shows_nothing_is_refused(scene: Scene, padded: bool) -> None:
    mask = np.full((MASK_SIZE, MASK_SIZE), -5.0)
    if padded:
        mask[-2:] = 5  # below the image
    with pytest.raises(PromptError, match="no positive logit"):
        scene.segment(mask=mask)


def test_a_thousand_prompts_go_in_bounded_batches() -> None:
    model = fake_model()
    scene = model.encode(flag())
    rng = np.random.default_rng(0)
    masks = scene.segment(points=rng.uniform(0, 120, (1000, 1, 2)))
    backend = model._pool.backend
    assert isinstance(backend, FakeBackend)
    assert len(masks) == 1000
    assert max(backend.engines["mask_decoder"].batches) <= MAX_PROMPTS
    assert masks.packed.bits.nbytes == pytest.approx(1000 * 128 * 200 / 8)


def test_an_empty_mask_has_no_area_and_no_box(scene: Scene) -> None:
    masks = scene.segment(boxes=(5, 5, 9, 9), mask=np.full((MASK_SIZE, MASK_SIZE), -1e6))
    assert masks.areas.tolist() == [0]
    assert masks.boxes.tolist() == [[0, 0, 0, 0]]


def test_more_than_an_answer_may_hold_is_refused_before_the_first_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = fake_model()
    scene = model.encode(flag())
    each = MASK_SIZE**2 * 4 + 128 * 200 // 8
    monkeypatch.setattr(segmenting, "MAX_ANSWER_BYTES", 5 * each)
    assert len(scene.segment(boxes=[(5, 5, 50, 120)] * 5)) == 5
    decoder: Any = model._pool.backend.engines["mask_decoder"]  # type: ignore[attr-defined]
    runs = len(decoder.batches)
    with pytest.raises(PromptError, match="at most 5 are answered at once"):
        scene.segment(boxes=[(5, 5, 50, 120)] * 6)
    with pytest.raises(PromptError, match="at most 1 are"):
        scene.segment(boxes=[(5, 5, 50, 120)] * 2, multimask=True)
    with pytest.raises(PromptError, match="at once"):
        scene.segment(boxes=[(5, 5, 50, 120)] * 2, return_logits=True)
    predictor = SamPredictor(model)
    predictor.set_image(flag())
    with pytest.raises(PromptError, match="at once"):
        predictor.predict_torch(None, None, [[5, 5, 50, 120]] * 5)
    assert len(decoder.batches) == runs


def test_what_does_not_fit_into_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = fake_model().encode(flag())
    masks = scene.segment(boxes=[(5, 5, 50, 120)] * 3)
    found = scene.everything(points_per_side=2, stability_score_thresh=0.5)
    monkeypatch.setattr(room, "UNCHECKED", 0)
    monkeypatch.setattr(free_memory, "available_memory", lambda: room.RESERVE + 1000)
    asks: list[Callable[[], object]] = [
        lambda: scene.segment(boxes=[(5, 5, 50, 120)]),
        lambda: masks.masks,
        found.records,
        lambda: scene.everything(points_per_side=2, stability_score_thresh=0.5),
    ]
    for ask in asks:
        with pytest.raises(DeviceMemoryError, match="are free"):
            ask()
    assert len(masks.to_dict()["masks"]) == 3  # one mask at a time
    monkeypatch.setattr(free_memory, "available_memory", lambda: None)
    assert masks.masks.shape == (3, 128, 200)
