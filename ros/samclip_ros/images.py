"""Pixels of camera messages: `sensor_msgs/Image` and `CompressedImage` as HxWx3 uint8 RGB.

Needs no ROS: a message is read by its fields. Rows may be padded (`step`), samples of 16 bits come
in either order of bytes (`is_bigendian`). What an encoding's name leaves open is refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]
MAX_PIXELS = 134_217_728  # as samclip's own limit
COMPRESSED_MODES = ("L", "RGB", "RGBA", "P")
COMPRESSED_FORMATS = ("JPEG", "PNG")
# OpenCV names a mosaic by the second and third pixel of its second row.
BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}


class CameraImageError(ValueError):
    """A message has no picture that can be used."""


class EncodingError(CameraImageError):
    """The encoding is one that is refused; the next message will have it too."""


class DamagedImageError(CameraImageError):
    """The bytes of one message do not fit its description; the next one's may."""


def _colour(code: int) -> Callable[[NDArray[Any]], Pixels]:
    return lambda rows: np.asarray(cv2.cvtColor(np.ascontiguousarray(rows), code), np.uint8)


def _mosaic(code: int) -> Callable[[NDArray[Any]], Pixels]:
    convert = _colour(code)
    return lambda rows: convert(rows[..., 0])


def _mosaic16(code: int) -> Callable[[NDArray[Any]], Pixels]:
    convert = _mosaic(code)
    return lambda rows: convert((rows >> 8).astype(np.uint8))


# Of each encoding: samples a pixel, bytes a sample, and the way from HxWxC samples to RGB.
ENCODINGS: dict[str, tuple[int, int, Callable[[NDArray[Any]], Pixels]]] = {
    "rgb8": (3, 1, np.ascontiguousarray),
    "bgr8": (3, 1, _colour(cv2.COLOR_BGR2RGB)),
    "rgba8": (4, 1, _colour(cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, 1, _colour(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, 1, _colour(cv2.COLOR_GRAY2RGB)),
    "yuv422": (2, 1, _colour(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": (2, 1, _colour(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (2, 1, _colour(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": (2, 1, _colour(cv2.COLOR_YUV2RGB_YUY2)),
    **{f"bayer_{name}8": (1, 1, _mosaic(code)) for name, code in BAYER.items()},
    **{f"bayer_{name}16": (1, 2, _mosaic16(code)) for name, code in BAYER.items()},
}
IN_PAIRS = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")  # two pixels share their colour


def to_rgb(message: Any) -> Pixels:
    """Return the picture of a `sensor_msgs/Image`: HxWx3 uint8 RGB, a copy.

    Of 16-bit mosaics the upper 8 bits count. Raises EncodingError, DamagedImageError.
    """
    encoding, height, width = message.encoding, message.height, message.width
    if encoding not in ENCODINGS:
        raise EncodingError(
            f"the camera's encoding is {encoding!r}, which is refused. Let it publish one of "
            f"{', '.join(ENCODINGS)}."
        )
    channels, size, convert = ENCODINGS[encoding]
    if not (height and width) or height * width > MAX_PIXELS:
        raise DamagedImageError(
            f"the image is {width}x{height}; it needs pixels, and at most {MAX_PIXELS:,}."
        )
    if width % 2 and encoding in IN_PAIRS:
        raise DamagedImageError(f"an image of {encoding} has an even width; got {width}.")
    row, step = width * channels * size, message.step
    data = as_bytes(message.data)
    least = step * (height - 1) + row
    if step < row or len(data) < least:
        raise DamagedImageError(
            f"an image of {encoding}, {width}x{height}, has rows of at least {row} bytes and "
            f"{least} bytes in all; got a step of {step} and {len(data)} bytes."
        )
    samples = np.ndarray(
        (height, width, channels),
        np.dtype(np.uint8) if size == 1 else np.dtype(">u2" if message.is_bigendian else "<u2"),
        data[:least],
        strides=(step, channels * size, size),
    )
    rgb = convert(samples)
    return rgb.copy() if np.shares_memory(rgb, data) else rgb


def decode(message: Any) -> Pixels:
    """Return the picture of a `sensor_msgs/CompressedImage`: HxWx3 uint8 RGB.

    JPEG or PNG of 8 bits, as the bytes say; orientation tags are ignored, so that pixels stay
    those of the camera. Raises EncodingError, DamagedImageError.
    """
    given = message.format
    if re.search(r"compressedDepth|\b(?:mono16|16UC1|32FC1|rvl|h264|hevc)\b", given, re.IGNORECASE):
        raise EncodingError(
            f"the camera's compressed format is {given!r}, which is refused. Let it publish jpeg "
            "or png of 8-bit colours."
        )
    try:
        with Image.open(
            io.BytesIO(as_bytes(message.data).tobytes()), formats=COMPRESSED_FORMATS
        ) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DamagedImageError(
                    f"the image is {width}x{height}; at most {MAX_PIXELS:,} pixels are decoded."
                )
            if picture.mode not in COMPRESSED_MODES:
                raise EncodingError(
                    f"the camera's {picture.format} has pixels of mode {picture.mode}, which is "
                    "refused. Let it publish 8-bit colours or greys."
                )
            return np.array(picture.convert("RGB"))
    except UnidentifiedImageError as error:
        raise DamagedImageError(
            f"the compressed image ({given!r}) is not JPEG or PNG. Check the camera's transport."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, CameraImageError):
            raise
        raise DamagedImageError(f"the compressed image cannot be decoded: {error}") from error


def as_bytes(data: Any) -> NDArray[np.uint8]:
    """Return a message's `uint8[]` as N uint8, without a copy where it has a buffer."""
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError):  # a plain list, or an empty buffer
        return np.asarray(data, np.uint8).reshape(-1)


def convert(message: Any) -> Pixels:
    """Return the picture of either kind of message: HxWx3 uint8 RGB."""
    return to_rgb(message) if hasattr(message, "encoding") else decode(message)
