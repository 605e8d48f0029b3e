"""The letterbox against segment-anything's formulas, with torch as it uses it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from samclip.runtime.pixels.image import Letterbox

SIZES = [(400, 600), (600, 400), (1024, 1024), (1, 1), (1, 10_000), (10_000, 1), (1500, 2250)]
SIDES = st.integers(1, 5000)


def postprocess_masks(
    masks: torch.Tensor, input_size: tuple[int, int], original_size: tuple[int, int], side: int
) -> torch.Tensor:
    """What `Sam.postprocess_masks` computes."""
    masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
    masks = masks[..., : input_size[0], : input_size[1]]
    return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", SIZES)
def test_input_size_is_that_of_resize_longest_side(size: tuple[int, int]) -> None:
    box = Letterbox.fit(size, 1024)
    scale = 1024 * 1.0 / max(size)
    assert box.input_size == tuple(max(1, int(side * scale + 0.5)) for side in size)
    assert box.original_size == size
    assert box.image_size == 1024


@given(SIDES, SIDES, st.sampled_from([64, 224, 1024]))
def test_input_always_fits(height: int, width: int, side: int) -> None:
    box = Letterbox.fit((height, width), side)
    assert max(box.input_size) == side
    assert min(box.input_size) >= 1
    ratio = min(box.input_size) / side, min(height, width) / max(height, width)
    assert abs(ratio[0] - ratio[1]) <= 1 / side  # by rounding, or for the pixel that must be there


@pytest.mark.parametrize("size", SIZES)
def test_to_input_is_apply_coords(size: tuple[int, int]) -> None:
    box = Letterbox.fit(size, 1024)
    points = np.random.default_rng(0).uniform(0, 1, (3, 5, 2)) * (size[1], size[0])
    expected = points.copy()
    expected[..., 0] = expected[..., 0] * (box.input_size[1] / size[1])
    expected[..., 1] = expected[..., 1] * (box.input_size[0] / size[0])
    got = box.to_input(points)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.astype(np.float32))  # exact
    corner = box.to_input([(size[1], size[0])])[0]
    np.testing.assert_allclose(corner, box.input_size[::-1], rtol=1e-6)
    assert box.to_input(np.zeros((0, 2))).shape == (0, 2)


def relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def white_noise(low: int) -> NDArray[np.float32]:
    return np.random.default_rng(low).normal(0, 10, (low, low)).astype(np.float32)


def blobs(low: int) -> NDArray[np.float32]:
    """Logits as smooth as those of masks."""
    coarse = torch.from_numpy(white_noise(low // 8))[None, None]
    return F.interpolate(coarse, (low, low), mode="bicubic").numpy()[0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("low", "side"), [(256, 1024), (64, 1024), (56, 224), (256, 336)])
def test_upscale_is_postprocess_masks(size: tuple[int, int], low: int, side: int) -> None:
    """The same map; nearer to the exact one than torch, which rounds coordinates to float32."""
    box = Letterbox.fit(size, side)
    for logits, tolerance in ((blobs(low), 1e-5), (white_noise(low), 5e-5)):
        masks = torch.from_numpy(logits)[None, None]
        in_torch = postprocess_masks(masks, box.input_size, size, side).numpy()[0, 0]
        exact = postprocess_masks(masks.double(), box.input_size, size, side).numpy()[0, 0]
        got = box.upscale(logits)
        assert got.shape == size
        assert got.dtype == np.float32
        assert relative_error(got, in_torch) <= tolerance
        assert relative_error(got, exact) <= 2e-5
        assert relative_error(got, exact) <= relative_error(in_torch, exact) + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80), st.sampled_from([64, 96, 224]))
def test_upscale_of_any_size(height: int, width: int, low: int, side: int) -> None:
    box = Letterbox.fit((height, width), side)
    logits = np.random.default_rng(low).normal(0, 10, (low, low)).astype(np.float32)
    expected = postprocess_masks(
        torch.from_numpy(logits)[None, None], box.input_size, (height, width), side
    ).numpy()[0, 0]
    # torch computes coordinates in float32: white noise shows it, up to 3e-5 from float64.
    assert relative_error(box.upscale(logits), expected) <= 1e-4


def test_upscale_takes_other_layouts() -> None:
    box = Letterbox.fit((40, 60), 64)
    logits = np.random.default_rng(0).normal(0, 10, (16, 16)).astype(np.float32)
    expected = box.upscale(logits)
    np.testing.assert_array_equal(box.upscale(logits.T.copy().T), expected)
    np.testing.assert_array_equal(box.upscale(logits.astype(np.float64)), expected)
    np.testing.assert_array_equal(box.upscale(np.repeat(logits, 2, axis=1)[:, ::2]), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [14, 32, 64])
def test_token_mask_marks_every_token_that_touches_the_image(
    size: tuple[int, int], grid: int
) -> None:
    box = Letterbox.fit(size, 1024)
    image = torch.zeros(1, 1, 1024, 1024)
    image[..., : box.input_size[0], : box.input_size[1]] = 1
    got = box.token_mask(grid)
    assert got.shape == (1, grid, grid)
    assert got.dtype == np.float32
    rows, columns = (math.ceil(side / (1024 / grid)) for side in box.input_size)
    assert got.sum() == rows * columns
    if 1024 % grid == 0:
        np.testing.assert_array_equal(got, F.max_pool2d(image, 1024 // grid).numpy()[:, 0])
