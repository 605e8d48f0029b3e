"""The two forms in which encoders take an image, and the one function that makes their inputs.

- float: `image`, 1x3xSxS float32. The host normalises, and pads with zeros.
- uint8: `image_u8`, 1xSxSx3 uint8 RGB, and `image_size`, int32 (h, w). The graph normalises, and
  sets what lies beyond h and w to the zeros of the float form. That is a quarter of the bytes, and
  an image of the encoder's size is the input as it is: on the GPU too.

S is the encoder's input side. The resized photo lies in the upper left of it. Encoders for other
shapes than the square take h x w pixels instead of S x S. A bundle's manifest says by the names of
the encoder's inputs which form it is, and which shapes there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.engines.cuda.beginning import Beginning
from samclip.engines.cuda.memory import CudaTensor
from samclip.errors import ManifestError
from samclip.runtime.pixels.image import InputFormat, Letterbox, normalise, resize_longest_side

IMAGE = "image"
IMAGE_U8, IMAGE_SIZE = "image_u8", "image_size"
FLOAT_FORM, UINT8_FORM = frozenset({IMAGE}), frozenset({IMAGE_U8, IMAGE_SIZE})

EncoderFeeds = dict[str, NDArray[np.generic]]
DeviceFeeds = dict[str, NDArray[np.generic] | Beginning]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class EncoderInput:
    """The form in which encoders take images, whose size and statistics are `pixels`.

    `canvases`: the (h, w) of the inputs to choose among, () for the square alone.
    """

    pixels: InputFormat
    uint8: bool = False
    canvases: tuple[tuple[int, int], ...] = ()

    @classmethod
    def declared(
        cls,
        inputs: Iterable[_Named],
        pixels: InputFormat,
        canvases: Sequence[tuple[int, int]] = (),
    ) -> EncoderInput:
        """Return the form of encoders with these `inputs`, as their manifest declares them.

        Raises ManifestError for inputs of neither form.
        """
        names = [spec.name for spec in inputs]
        if not takes_images(names):
            raise ManifestError(
                f"the bundle's encoder takes {', '.join(names) or 'nothing'}; expected {IMAGE}, or "
                f"{IMAGE_U8} and {IMAGE_SIZE}. Export the bundle again, or update samclip."
            )
        return cls(pixels, set(names) == UINT8_FORM, tuple(canvases))

    def feeds(self, image: NDArray[np.uint8]) -> tuple[EncoderFeeds, Letterbox]:
        """Make the encoder's inputs from an image, HWC uint8 RGB of any size; raises ImageError.

        The image is resized by `image.resize_longest_side`, in both forms the same. They are for
        the encoder of the letterbox's canvas.
        """
        resized, letterbox = resize_longest_side(image, self.pixels.image_size, self.canvases)
        return self.place(resized, letterbox.canvas), letterbox

    def fit_exactly(self, original_size: tuple[int, int]) -> Letterbox:
        """Choose the canvas of an image that its caller resizes, or has resized, by its scale."""
        return Letterbox.choose(original_size, self.pixels.image_size, self.canvases, squeeze=0)

    def place(
        self,
        resized: NDArray[np.uint8] | NDArray[np.float32],
        canvas: tuple[int, int] | None = None,
    ) -> EncoderFeeds:
        """Make the encoder's inputs from an image in its size, hxwx3 RGB in [0, 255].

        `canvas`: (h, w) of the input that is to hold it, None for the square.
        The uint8 form rounds fractions, which only resizing in floats has: to the nearest, ties to
        even.
        """
        if not self.uint8:
            return {IMAGE: normalise(resized, self.pixels, canvas)}
        height, width = resized.shape[:2]
        side = self.pixels.image_size
        padded = np.zeros((1, *(canvas or (side, side)), 3), np.uint8)
        whole = resized if resized.dtype == np.uint8 else np.clip(np.rint(resized), 0, 255)
        padded[0, :height, :width] = whole
        return {IMAGE_U8: padded, IMAGE_SIZE: np.array([height, width], np.int32)}

    def misfit(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
        """Return why an image of this shape cannot be the input as it is; None if it can."""
        side = self.pixels.image_size
        if not self.uint8:
            return "the encoder takes normalised floats, not uint8 pixels"
        if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
            return "it is not HxWx3 uint8"
        if max(shape[:2]) != side or 0 in shape:
            return f"it has {shape[1]} x {shape[0]} pixels, expected {side} on the longer side"
        if self.fit_exactly((shape[0], shape[1])).input_size != shape[:2]:
            return f"no encoder's input holds its {shape[1]} x {shape[0]} pixels"
        return None

    def feeds_on_device(self, kept: CudaTensor, letterbox: Letterbox) -> DeviceFeeds:
        """Make the encoder's inputs from an image on the GPU that is one as it is, see `misfit`.

        `kept`: hxWx3 uint8 RGB, where W is the canvas's width; `letterbox`: that of `fit_exactly`.
        """
        whole = Beginning(kept, (1, *letterbox.canvas, 3))
        return {IMAGE_U8: whole, IMAGE_SIZE: np.array(letterbox.input_size, np.int32)}


def takes_images(inputs: Collection[str]) -> bool:
    """Whether inputs of these names are those of an encoder, in either form."""
    return set(inputs) in (FLOAT_FORM, UINT8_FORM)
