"""Camera messages become RGB pixels: encodings, padded rows, orders of bytes, damage."""

from __future__ import annotations

import io
from array import array
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PilImage

Pixels = NDArray[np.uint8]


def message(encoding: str, samples: NDArray[Any], *, padding: int = 0, **fields: Any) -> Any:
    """A `sensor_msgs/Image` of HxWxC samples, with bytes of noise after each row."""
    from sensor_msgs.msg import Image

    height, width = samples.shape[:2]
    rows = np.frombuffer(samples.tobytes(), np.uint8).reshape(height, -1)
    noise = np.full((height, padding), 201, np.uint8)
    data = array("B", np.concatenate([rows, noise], 1).tobytes())
    given = {"height": height, "width": width, "step": rows.shape[1] + padding, **fields}
    return Image(encoding=encoding, data=data, **given)


@pytest.fixture(scope="module")
def smooth(photo: Pixels) -> Pixels:
    """A real photo without detail that a mosaic or halved colours would lose."""
    return np.ascontiguousarray(cv2.GaussianBlur(photo[:200, :300], (0, 0), 4))


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0])],
)
def test_colours_are_put_in_order(
    photo: Pixels, encoding: str, order: list[int], padding: int
) -> None:
    from samclip_ros.images import convert

    given = message(encoding, photo[..., order], padding=padding)
    found = convert(given)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, photo)
    given.data[0] ^= 255  # the message's bytes are not kept
    np.testing.assert_array_equal(found, photo)


@pytest.mark.parametrize("padding", [0, 3])
def test_greys_become_equal_colours(photo: Pixels, padding: int) -> None:
    from samclip_ros.images import convert

    found = convert(message("mono8", photo[..., 1], padding=padding))
    np.testing.assert_array_equal(found, np.repeat(photo[..., 1:2], 3, 2))


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("encoding", "luma_first"),
    [("yuv422", False), ("uyvy", False), ("yuv422_yuy2", True), ("yuyv", True)],
)
def test_pairs_of_pixels_share_their_colour(
    smooth: Pixels, encoding: str, luma_first: bool, padding: int
) -> None:
    from samclip_ros.images import convert

    # BT.601 with luma of 16 to 235, as cameras send it: the matrix in full, not OpenCV's.
    matrix = np.asarray(
        [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
    )
    yuv = smooth / 255 @ matrix.T + [16, 128, 128]
    chroma = (yuv[:, 0::2, 1:] + yuv[:, 1::2, 1:]) / 2
    shared = np.stack([chroma[..., 0], chroma[..., 1]], 2).reshape(*yuv.shape[:2])
    planes = [yuv[..., 0], shared] if luma_first else [shared, yuv[..., 0]]
    samples = np.rint(np.stack(planes, 2)).astype(np.uint8)
    found = convert(message(encoding, samples, padding=padding))
    # 3 of 255: two roundings to 8 bits, and colours that two pixels share.
    assert np.abs(found.astype(int) - smooth).max() <= 3 + 3


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("big", [0, 1])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_mosaics_have_their_colours_where_the_name_says(
    smooth: Pixels, pattern: str, bits: int, big: int, padding: int
) -> None:
    from samclip_ros.images import convert

    mosaic = np.zeros(smooth.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        mosaic[rows, columns] = smooth[rows, columns, "rgb".index(letter)]
    samples: NDArray[Any] = mosaic
    if bits == 16:  # the lower byte is noise that must not count
        samples = (mosaic.astype(np.uint16) * 256 + 77).astype(">u2" if big else "<u2")
    found = convert(message(f"bayer_{pattern}{bits}", samples, padding=padding, is_bigendian=big))
    inside = (slice(2, -2), slice(2, -2))
    # 6 of 255: what a bilinear mosaic loses of a photo blurred by 4 pixels; a wrong pattern is
    # off by 20 on average.
    difference = np.abs(found[inside].astype(int) - smooth[inside])
    assert difference.mean() < 1 and np.percentile(difference, 99) <= 6


@pytest.mark.parametrize("encoding", ["mono16", "32FC1", "8UC3", "rgb16", "nv12", "", "RGB8"])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    from samclip_ros.images import EncodingError, convert

    with pytest.raises(EncodingError, match=r"refused\. Let it publish one of rgb8, bgr8"):
        convert(message(encoding, np.zeros((4, 4, 3), np.uint8)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 0}, "needs pixels"),
        ({"height": 2**31}, "at most"),
        ({"step": 11}, "rows of at least 12 bytes"),
        ({"height": 5}, "60 bytes in all; got a step of 12 and 48 bytes"),
        ({"encoding": "yuyv", "width": 3}, "even width"),
    ],
)
def test_bytes_that_do_not_fit_are_damage(fields: dict[str, Any], said: str) -> None:
    from samclip_ros.images import DamagedImageError, convert

    given = message("rgb8", np.zeros((4, 4, 3), np.uint8))
    for name, value in fields.items():
        setattr(given, name, value)
    with pytest.raises(DamagedImageError, match=said):
        convert(given)


def test_the_last_row_may_lack_its_padding(photo: Pixels) -> None:
    from samclip_ros.images import convert

    given = message("rgb8", photo, padding=7)
    del given.data[-7:]
    np.testing.assert_array_equal(convert(given), photo)


def compressed(photo: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(photo).save(buffer, kind, **options)
    return buffer.getvalue()


def compressed_message(data: bytes, name: str) -> Any:
    from sensor_msgs.msg import CompressedImage

    return CompressedImage(format=name, data=array("B", data))


def test_compressed_images_are_decoded(photo: Pixels) -> None:
    from samclip_ros.images import convert

    png = compressed_message(compressed(photo, "PNG"), "rgb8; png compressed bgr8")
    np.testing.assert_array_equal(convert(png), photo)
    exif = PilImage.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the camera's pixels stay as they are
    jpeg = compressed(photo, "JPEG", quality=95, exif=exif)
    found = convert(compressed_message(jpeg, "jpeg"))
    assert found.shape == photo.shape
    assert np.abs(found.astype(int) - photo).mean() < 2  # of 255, by JPEG at quality 95
    grey = convert(compressed_message(compressed(photo[..., 0], "PNG"), "mono8; png compressed"))
    np.testing.assert_array_equal(grey[..., 2], photo[..., 0])


def test_compressed_images_that_cannot_be_used_say_why(photo: Pixels) -> None:
    from samclip_ros.images import DamagedImageError, EncodingError, convert

    jpeg = compressed(photo, "JPEG")
    deep = compressed(photo[..., 0].astype(np.uint16), "PNG")
    for data, name, kind, said in [
        (jpeg[:2000], "jpeg", DamagedImageError, "cannot be decoded"),
        (b"", "jpeg", DamagedImageError, "not JPEG or PNG"),
        (compressed(photo, "BMP"), "bmp", DamagedImageError, "not JPEG or PNG"),
        (jpeg, "16UC1; compressedDepth png", EncodingError, "'16UC1; compressedDepth png'"),
        (deep, "png", EncodingError, "8-bit"),
    ]:
        with pytest.raises(kind, match=said):
            convert(compressed_message(data, name))
