from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import IOUS, MASK_SIZE, fake_model, flag

from samclip.errors import ClosedError, ImageError, InputError, InputWarning, PromptError
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


class TestBatches:
    """`predict_torch` with arrays: B prompts in pixels of the encoder's input."""

    BOXES = np.array([[5, 5, 90, 90], [100, 10, 200, 128], [0, 0, 200, 128]])

    def test_boxes_as_the_notebooks_do(self, predictor: SamPredictor) -> None:
        moved = predictor.transform.apply_boxes(self.BOXES, (128, 200))
        masks, iou, low_res = predictor.predict_torch(
            point_coords=None, point_labels=None, boxes=moved, multimask_output=False
        )
        assert (masks.shape, masks.dtype) == ((3, 1, 128, 200), np.bool_)
        assert (iou.shape, iou.dtype) == ((3, 1), np.float32)
        assert (low_res.shape, low_res.dtype) == ((3, 1, MASK_SIZE, MASK_SIZE), np.float32)
        for row, box in enumerate(self.BOXES):
            one = predictor.predict(box=box, multimask_output=False)
            for batched, alone in zip((masks, iou, low_res), one, strict=True):
                np.testing.assert_allclose(batched[row], alone, rtol=1e-6)

    def test_points_masks_and_logits(self, predictor: SamPredictor) -> None:
        points = np.array([[[50, 60], [150, 20]]] * 20)
        labels = np.array([[1, 0]] * 20)
        moved = predictor.transform.apply_coords(points, (128, 200))
        logits, iou, low_res = predictor.predict_torch(moved, labels, return_logits=True)
        assert (logits.shape, logits.dtype) == ((20, 3, 128, 200), np.float32)
        assert iou.shape == (20, 3)
        alone = predictor.predict(points[0], labels[0], return_logits=True)
        np.testing.assert_allclose(logits[7], alone[0], atol=1e-4)
        again = predictor.predict_torch(moved, labels, mask_input=low_res[:, :1])[2]
        np.testing.assert_allclose(again[:, 0], low_res[:, 0] * 2, rtol=1e-5)

    def test_filling_points_are_no_points(self, predictor: SamPredictor) -> None:
        filled = np.array([[[50.0, 60], [0, 0]], [[150, 20], [-9, 999]]])
        masks = predictor.predict_torch(filled, np.array([[1, -1], [1, -1]]))[0]
        alone = predictor.predict_torch(filled[:, :1], np.ones((2, 1)))[0]
        np.testing.assert_array_equal(masks, alone)

    def test_corners_stay_inside_after_the_mapping(self) -> None:
        predictor = SamPredictor(fake_model())
        for size in ((127, 301), (331, 97), (1000, 1001)):
            predictor.set_image(np.zeros((*size, 3), np.uint8))
            corners = predictor.transform.apply_coords([[[0, 0], size[::-1]]], size)
            assert predictor.predict_torch(corners, np.ones((1, 2)))[0].shape == (1, 3, *size)

    def test_no_boxes_give_no_masks(self, predictor: SamPredictor) -> None:
        masks, iou, low_res = predictor.predict_torch(None, None, np.zeros((0, 4)))
        assert masks.shape == (0, 3, 128, 200)
        assert (iou.shape, low_res.shape) == ((0, 3), (0, 3, MASK_SIZE, MASK_SIZE))

    @pytest.mark.parametrize(
        "prompts",
        [
            (None, None),
            (np.zeros((1, 1, 2)), None),
            (np.zeros((1, 2)), np.ones(1)),
            (np.zeros((2, 1, 2)), np.ones((1, 1))),
            (np.zeros((1, 1, 2)), np.full((1, 1), 2)),
            (np.full((1, 1, 2), 900), np.ones((1, 1))),
            (np.full((1, 1, 2), np.nan), np.ones((1, 1))),
            ("ab", np.ones((1, 1))),
            (None, None, np.zeros((2, 5))),
            (None, None, np.ones((2, 2, 4))),
            (None, None, [[1, 2], [3]]),
            (None, None, np.array([[9, 9, 1, 1]])),
            (None, None, None, np.zeros((1, MASK_SIZE, MASK_SIZE))),
        ],
    )
    def test_prompts_that_do_not_fit(self, predictor: SamPredictor, prompts: Any) -> None:
        with pytest.raises(PromptError):
            predictor.predict_torch(*prompts)

    def test_an_image_must_be_set(self) -> None:
        with pytest.raises(InputError, match="set_image"):
            SamPredictor(fake_model()).predict_torch(None, None, self.BOXES)


def test_tensors_give_tensors(predictor: SamPredictor) -> None:
    torch = pytest.importorskip("torch")
    boxes = torch.tensor([[5.0, 5, 90, 90], [100, 10, 200, 128]], requires_grad=True)
    moved = predictor.transform.apply_boxes_torch(boxes, (128, 200))
    assert moved.dtype == torch.float32
    masks, iou, low_res = predictor.predict_torch(None, None, moved, multimask_output=False)
    arrays = predictor.predict_torch(None, None, moved.detach().numpy(), multimask_output=False)
    kinds = (torch.bool, torch.float32, torch.float32)
    for tensor, array, kind in zip((masks, iou, low_res), arrays, kinds, strict=True):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == kind
        np.testing.assert_array_equal(tensor.numpy(), array)
    half = moved.detach().to(torch.bfloat16)
    assert isinstance(predictor.predict_torch(None, None, half)[0], torch.Tensor)


def test_what_segment_anythings_callers_look_at() -> None:
    predictor = SamPredictor(fake_model())
    assert (predictor.original_size, predictor.input_size, predictor.features) == (None,) * 3
    predictor.set_image(flag())
    assert predictor.original_size == (128, 200)
    assert predictor.input_size == (164, 256)
    np.testing.assert_array_equal(predictor.features, predictor.get_image_embedding())
    assert predictor.device == "cpu"
    assert (predictor.model.image_format, predictor.model.mask_threshold) == ("RGB", 0.0)
    with pytest.raises(InputError, match=r"samclip\.load"):
        SamPredictor("samclip-tiny")  # type: ignore[arg-type]


def test_an_image_that_was_resized_before(predictor: SamPredictor) -> None:
    embedding = predictor.get_image_embedding()
    box = predictor.predict(box=[5, 5, 90, 90])
    resized = predictor.transform.apply_image(flag())
    assert resized.shape == (164, 256, 3)
    for image in (resized.transpose(2, 0, 1)[None], resized.transpose(2, 0, 1)[None] / 1.0):
        predictor.reset_image()
        predictor.set_torch_image(image, (128, 200))
        np.testing.assert_allclose(predictor.get_image_embedding(), embedding, atol=1e-6)
        assert predictor.original_size == (128, 200)
        np.testing.assert_array_equal(predictor.predict(box=[5, 5, 90, 90])[0], box[0])


@pytest.mark.parametrize(
    ("image", "size", "message"),
    [
        (np.zeros((164, 256, 3)), (128, 200), "1x3xhxw"),
        (np.zeros((1, 3, 164, 200)), (128, 200), "must be"),
        (np.zeros((1, 3, 164, 256)), (200, 128), "must be"),
        (np.full((1, 3, 164, 256), 256.0), (128, 200), "0, 255"),
        (np.full((1, 3, 164, 256), -1.0), (128, 200), "0, 255"),
        (np.full((1, 3, 164, 256), np.nan), (128, 200), "finite"),
        (np.zeros((1, 3, 164, 256)), (128,), "original_size"),
        (np.zeros((1, 3, 164, 256)), "ab", "original_size"),
        ("image", (128, 200), "1x3xhxw"),
    ],
)
def test_resized_images_that_are_none(image: Any, size: Any, message: str) -> None:
    predictor = SamPredictor(fake_model())
    with pytest.raises(InputError, match=message):
        predictor.set_torch_image(image, size)
    assert not predictor.is_image_set


def test_a_resized_image_in_the_wrong_range(predictor: SamPredictor) -> None:
    image = np.full((1, 3, 164, 256), 0.5, np.float32)
    with pytest.warns(InputWarning, match="by 255"):
        predictor.set_torch_image(image, (128, 200))


def test_coordinates_that_look_like_shares(predictor: SamPredictor) -> None:
    with pytest.warns(InputWarning, match="multiply x by 200"):
        predictor.predict(np.array([[0.5, 0.5]]), np.array([1]))
