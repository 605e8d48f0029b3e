"""The two forms of an encoder's input: which one a manifest declares, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from samclip.errors import ManifestError
from samclip.runtime.bundles.manifest import Preprocessing, TensorSpec
from samclip.runtime.pixels.encoder_input import EncoderInput
from samclip.runtime.pixels.image import Letterbox, preprocess

SIDE = 128
PIXELS = Preprocessing(image_size=SIDE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def specs(*names: str) -> list[TensorSpec]:
    return [TensorSpec(name=name, dtype="float32", shape=()) for name in names]


@pytest.mark.parametrize(
    ("names", "uint8"),
    [(("image",), False), (("image_u8", "image_size"), True), (("image_size", "image_u8"), True)],
)
def test_the_declared_inputs_decide(names: tuple[str, ...], uint8: bool) -> None:
    assert EncoderInput.declared(specs(*names), PIXELS) == EncoderInput(PIXELS, uint8)


@pytest.mark.parametrize("names", [(), ("image_u8",), ("image", "image_size"), ("pixel_values",)])
def test_other_inputs_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ManifestError, match="expected image, or image_u8 and image_size"):
        EncoderInput.declared(specs(*names), PIXELS)


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (64, 64), (1, 400), (400, 1)])
def test_both_forms_hold_the_same_pixels(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    floats, letterbox = EncoderInput(PIXELS).feeds(image)
    feeds, own = EncoderInput(PIXELS, uint8=True).feeds(image)
    assert own == letterbox == Letterbox.fit(size, SIDE)
    np.testing.assert_array_equal(floats["image"], preprocess(image, PIXELS)[0])
    square, (height, width) = feeds["image_u8"], feeds["image_size"]
    assert (square.dtype, square.shape) == (np.uint8, (1, SIDE, SIDE, 3))
    assert feeds["image_size"].dtype == np.int32
    assert (height, width) == letterbox.input_size
    assert not square[:, height:].any()
    assert not square[:, :, width:].any()
    photo = square[:, :height, :width].astype(np.float32)
    normalised = (photo - np.float32(PIXELS.mean)) / np.float32(PIXELS.std)
    expected = np.pad(normalised, ((0, 0), (0, SIDE - height), (0, SIDE - width), (0, 0)))
    np.testing.assert_array_equal(floats["image"], expected.transpose(0, 3, 1, 2))
    # An image resized by the caller, in uint8 or in whole floats, is placed in the same way.
    resized: NDArray[np.uint8] = np.ascontiguousarray(square[0, :height, :width])
    for given in (resized, resized.astype(np.float32)):
        placed = EncoderInput(PIXELS, uint8=True).place(given)
        np.testing.assert_array_equal(placed["image_u8"], square)


def test_fractions_are_rounded_to_the_nearest_pixel() -> None:
    resized = np.array([[[0.4, 0.6, 254.7], [255.0, 1.5, 2.5]]], np.float32)
    placed = EncoderInput(PIXELS, uint8=True).place(resized)
    np.testing.assert_array_equal(
        placed["image_u8"][0, :1, :2], np.array([[[0, 1, 255], [255, 2, 2]]], np.uint8)
    )
