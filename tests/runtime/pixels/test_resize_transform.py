"""The transform, against the rules that segment-anything documents for its own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from samclip.errors import InputError, PromptError
from samclip.runtime.pixels.resize_transform import ResizeLongestSide

SIZE = (1200, 1800)  # h, w


@pytest.fixture
def transform() -> ResizeLongestSide:
    return ResizeLongestSide(1024)


def test_shapes(transform: ResizeLongestSide) -> None:
    shape = transform.get_preprocess_shape
    assert shape(1200, 1800, 1024) == (683, 1024)  # 682.67 rounds up
    assert shape(1800, 1200, 1024) == (1024, 683)
    assert shape(10, 20, 1024) == (512, 1024)
    assert transform.target_length == 1024


def test_coordinates_and_boxes(transform: ResizeLongestSide) -> None:
    x, y = 1024 / 1800, 683 / 1200
    coords = np.array([[[500, 375], [1125, 625]]])
    moved = transform.apply_coords(coords, SIZE)
    assert (moved.shape, moved.dtype) == ((1, 2, 2), np.float64)
    np.testing.assert_allclose(moved, [[[500 * x, 375 * y], [1125 * x, 625 * y]]])
    assert coords.tolist() == [[[500, 375], [1125, 625]]]  # a copy
    boxes = transform.apply_boxes(np.array([[75, 275, 1725, 850]]), SIZE)
    np.testing.assert_allclose(boxes, [[75 * x, 275 * y, 1725 * x, 850 * y]])
    assert transform.apply_boxes(np.zeros((0, 4)), SIZE).shape == (0, 4)
    assert transform.apply_boxes(np.array([1, 2, 3, 4]), SIZE).shape == (1, 4)


def test_images(transform: ResizeLongestSide) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    resized = transform.apply_image(image)
    assert (resized.shape, resized.dtype) == ((683, 1024, 3), np.uint8)
    expected = Image.fromarray(image).resize((1024, 683), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(expected))


def test_tensors(transform: ResizeLongestSide) -> None:
    torch = pytest.importorskip("torch")
    coords = torch.tensor([[500, 375]])
    np.testing.assert_allclose(
        transform.apply_coords_torch(coords, SIZE).numpy(),
        transform.apply_coords(coords.numpy(), SIZE),
        rtol=1e-6,
    )
    assert coords.tolist() == [[500, 375]]
    boxes = torch.tensor([[75.0, 275, 1725, 850]])
    np.testing.assert_allclose(
        transform.apply_boxes_torch(boxes, SIZE).numpy(),
        transform.apply_boxes(boxes.numpy(), SIZE),
        rtol=1e-6,
    )
    image = torch.zeros(2, 3, 60, 90)
    assert transform.apply_image_torch(image).shape == (2, 3, 683, 1024)


def test_what_does_not_fit(transform: ResizeLongestSide) -> None:
    for coords in (5, [[1, 2, 3]], "ab", [[1, 2], [3]], None):
        with pytest.raises(PromptError):
            transform.apply_coords(coords, SIZE)  # type: ignore[arg-type]
    for boxes in ([1, 2, 3], "ab", None):
        with pytest.raises(PromptError):
            transform.apply_boxes(boxes, SIZE)  # type: ignore[arg-type]
    for size in (None, 5, (0, 5), (1.5, 2), (1, 2, 3), "ab"):
        with pytest.raises(InputError):
            transform.apply_coords([[1, 2]], size)  # type: ignore[arg-type]
    for method in (transform.apply_image_torch,):
        with pytest.raises(InputError, match="tensor"):
            method(np.zeros((1, 3, 4, 4)))
    for method in (transform.apply_coords_torch, transform.apply_boxes_torch):
        with pytest.raises(InputError, match="tensor"):
            method(np.zeros((1, 4)), SIZE)
