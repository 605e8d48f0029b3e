from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import ImageError
from samclip.merge.data.shards import decode_photo


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    gradient = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None].repeat(height, 0)
    image, stream = Image.fromarray(gradient.repeat(3, 2)), BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(stream, "JPEG", exif=exif, quality=95)
    return stream.getvalue()


def test_a_photo_is_decoded_as_the_runtime_does(photo_path: Path, photo: NDArray[np.uint8]) -> None:
    assert np.array_equal(decode_photo(photo_path.read_bytes(), "it"), photo)


@pytest.mark.parametrize(
    ("longest", "width"), [(None, 640), (640, 640), (321, 640), (320, 320), (100, 160), (1, 80)]
)
def test_jpegs_are_decoded_no_larger_than_needed(longest: int | None, width: int) -> None:
    pixels = decode_photo(jpeg(640, 480), "it", longest)
    assert pixels.shape == (width * 3 // 4, width, 3)
    ends = pixels[:, [0, -1]].astype(int)
    assert ends[:, 0].max() < 10  # still the gradient from black to white
    assert ends[:, 1].min() > 245


def test_turned_photos_are_turned_back_after_it() -> None:
    assert decode_photo(jpeg(640, 480, orientation=6), "it", 320).shape == (320, 240, 3)


def test_other_formats_take_no_notice() -> None:
    stream = BytesIO()
    Image.new("RGB", (640, 480)).save(stream, "PNG")
    assert decode_photo(stream.getvalue(), "it", 100).shape == (480, 640, 3)


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(ImageError, match="the photo x is not of the formats"):
        decode_photo(b"text", "the photo x")
    with pytest.raises(ImageError, match=r"the photo x.*truncated"):
        decode_photo(jpeg(640, 480)[:-200], "the photo x")
    with pytest.raises(ImageError, match="640 x 480 pixels, at most 1,000"):
        decode_photo(jpeg(640, 480), "the photo x", max_pixels=1000)
