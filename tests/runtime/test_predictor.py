from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import IOUS, MASK_SIZE, fake_model, flag

from samclip.errors import ClosedError, ImageError, InputError, PromptError
from samclip.runtime.predictor import SamPredictor


@pytest.fixture
def predictor() -> SamPredictor:
    predictor = SamPredictor(fake_model())
    predictor.set_image(flag())
    return predictor


def test_shapes_are_segment_anythings(predictor: SamPredictor) -> None:
    masks, iou, low_res = predictor.predict(np.array([[50, 60]]), np.array([1]))
    assert (masks.shape, masks.dtype) == ((3, 128, 200), np.bool_)
    assert iou.tolist() == pytest.approx(IOUS[1:])
    assert low_res.shape == (3, MASK_SIZE, MASK_SIZE)
    assert low_res.dtype == np.float32
    single, iou, low_res = predictor.predict(box=np.array([5, 5, 90, 90]), multimask_output=False)
    assert (single.shape, iou.shape, low_res.shape) == (
        (1, 128, 200),
        (1,),
        (1, MASK_SIZE, MASK_SIZE),
    )
    assert iou.tolist() == pytest.approx([IOUS[0]])


def test_a_box_may_come_as_a_row(predictor: SamPredictor) -> None:
    flat = predictor.predict(box=np.array([5, 5, 90, 90]))[0]
    row = predictor.predict(box=np.array([[5, 5, 90, 90]]))[0]
    np.testing.assert_array_equal(flat, row)


def test_logits_and_feeding_them_back(predictor: SamPredictor) -> None:
    masks, _, low_res = predictor.predict(box=np.array([5, 5, 90, 90]), multimask_output=False)
    logits, _, again = predictor.predict(
        box=np.array([5, 5, 90, 90]), mask_input=low_res, multimask_output=False, return_logits=True
    )
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits > 0, masks)
    np.testing.assert_allclose(again, low_res * 2, rtol=1e-6)  # the fake decoder adds the two


def test_bgr_is_turned_around() -> None:
    predictor = SamPredictor(fake_model())
    predictor.set_image(flag()[..., ::-1], image_format="BGR")
    embedding = predictor.get_image_embedding()
    predictor.set_image(flag())
    np.testing.assert_array_equal(embedding, predictor.get_image_embedding())
    assert embedding.shape == (1, 3, 16, 16)


def test_an_image_must_be_set_first(predictor: SamPredictor) -> None:
    assert predictor.is_image_set
    predictor.reset_image()
    assert not predictor.is_image_set
    with pytest.raises(InputError, match="set_image"):
        predictor.predict(box=np.array([5, 5, 9, 9]))
    with pytest.raises(InputError, match="set_image"):
        predictor.get_image_embedding()


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"point_coords": np.array([[5, 5]])},
        {"point_labels": np.array([1])},
        {"point_coords": np.array([[5, 5]]), "point_labels": np.array([1, 0])},
        {"point_coords": np.array([[900, 5]]), "point_labels": np.array([1])},
        {"box": np.array([5, 5])},
        {"box": [[5, 5], [9]]},
        {"box": [[5, 5, 9, 9], [5]]},
        {"box": np.array([[5, 5, 9, 9], [5, 5, 9, 9]])},
        {"box": np.zeros((0, 4))},
        {"mask_input": np.zeros((2, MASK_SIZE, MASK_SIZE), np.float32)},
        {"mask_input": np.zeros((1, 3, 3), np.float32)},
    ],
)
def test_prompts_that_do_not_fit(predictor: SamPredictor, prompt: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        predictor.predict(**prompt)


@pytest.mark.parametrize(
    ("image", "form"),
    [
        ([[1, 2], [3]], "RGB"),
        (np.zeros((4, 4)), "RGB"),
        (np.zeros((4, 4, 4), np.uint8), "RGB"),
        (flag(), "HSV"),
    ],
)
def test_images_that_are_none(image: np.ndarray, form: str) -> None:
    predictor = SamPredictor(fake_model())
    with pytest.raises(ImageError):
        predictor.set_image(image, form)
    assert not predictor.is_image_set


def test_a_closed_model() -> None:
    predictor = SamPredictor(fake_model())
    predictor.set_image(flag())
    predictor.model.close()
    with pytest.raises(ClosedError):
        predictor.predict(box=np.array([5, 5, 9, 9]))
