"""The limit of an image's pixels, checked without any library for images."""

from __future__ import annotations

from samclip.errors import InputError

DEFAULT_MAX_PIXELS = 2**27  # 384 MiB of RGB, and photos of 108 megapixels


def check_max_pixels(max_pixels: int | None) -> int:
    """Return a limit of pixels, the default for None; InputError unless it is above 0."""
    if max_pixels is None:
        return DEFAULT_MAX_PIXELS
    if not isinstance(max_pixels, int) or isinstance(max_pixels, bool) or max_pixels < 1:
        raise InputError(f"max_pixels must be a whole number of at least 1; got {max_pixels!r}.")
    return max_pixels
