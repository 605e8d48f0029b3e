"""A photo from the bytes of a file, with the runtime's caps, no more detailed than asked for."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from samclip.errors import ImageError
from samclip.runtime.pixels.decode import HeaderError, check_end, convert_pil, open_header
from samclip.runtime.pixels.image import DEFAULT_MAX_PIXELS


def decode_photo(
    data: bytes, name: str, longest: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a file's bytes to HWC uint8 RGB, turned as EXIF says.

    A JPEG whose longer side is at least twice `longest` pixels is decoded at a half, a quarter or
    an eighth, never below `longest`: JPEG's cosine transform gives these for a fraction of the
    time. None decodes in full. `name` is for messages. Raises ImageError for what is no image, is
    damaged, or has more than `max_pixels`, which is checked before anything is decoded.
    """
    stream = BytesIO(data)
    try:
        with open_header(stream, max_pixels) as image:
            if longest is not None and max(image.size) >= 2 * longest:
                scale = longest / max(image.size)
                width, height = (max(1, round(side * scale)) for side in image.size)
                image.draft("RGB", (width, height))
            pixels = convert_pil(image, max_pixels)
            check_end(stream, str(image.format))
            return pixels
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except HeaderError as error:
        raise ImageError(f"{name} {error}.") from error
    except Exception as error:  # what the decoders raise on hostile bytes may be anything
        raise ImageError(f"{name} cannot be decoded: {error or type(error).__name__}.") from error
