"""Colours: from the space of a file's ICC profile to sRGB.

Encoders were trained on sRGB. A profile that is broken, or of another kind of colours than the
pixels, is ignored; one that changes next to nothing, sRGB itself among them, leaves the pixels as
they are.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from itertools import product

import numpy as np
from PIL import Image, ImageCms

from samclip.library_errors import is_library_error
from samclip.runtime.pixels.picture import to_8_bits

MAX_PROFILE_BYTES = 2**24
SAME = 3  # levels of 255; writers of sRGB profiles differ by less
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # an ICC colour space -> Pillow's mode


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a decoded image's colours, in place where that is possible.

    Without a usable profile the image is returned itself. Alpha is dropped.
    """
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return image
    found = _find_transform(profile)
    if found is None:
        return image
    transform, mode = found
    plain = _without_alpha(image)
    if mode == "RGB" and plain.mode == "L":  # grey in a space of colours
        plain = plain.convert("RGB")
    if plain.mode != mode:
        return image
    if mode == "RGB":
        plain = plain.copy() if plain.readonly else plain
        ImageCms.applyTransform(plain, transform, inPlace=True)
        return plain
    return ImageCms.applyTransform(plain, transform) or plain


def _without_alpha(image: Image.Image) -> Image.Image:
    """Bring an image to one of the modes L, RGB and CMYK, where it can be."""
    if image.mode.startswith("I;16"):
        return to_8_bits(image)
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")
    plain = {"1": "L", "LA": "L", "La": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB"}
    return image.convert(plain[image.mode]) if image.mode in plain else image


@lru_cache(maxsize=16)
def _find_transform(profile: bytes) -> tuple[ImageCms.ImageCmsTransform, str] | None:
    """Make the transform to sRGB and say for which of Pillow's modes; None to leave the pixels."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = SPACES.get(source.profile.xcolor_space)
        if mode is None:
            return None
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        grid = _grid(mode)
        changed = ImageCms.applyTransform(grid, transform)
    except Exception as error:
        if not is_library_error(error, "PIL"):
            raise
        return None
    if changed is None:
        return None
    before, after = np.asarray(grid.convert("RGB"), int), np.asarray(changed, int)
    return None if np.abs(before - after).max() <= SAME else (transform, mode)


def _grid(mode: str) -> Image.Image:
    """Return an image of colours from all over a mode's space."""
    levels = range(0, 256, 17)
    colours = [(v,) for v in range(256)] if mode == "L" else product(levels, repeat=len(mode))
    values = np.array(list(colours), np.uint8)
    return Image.frombytes(mode, (len(values), 1), values.tobytes())


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image of Pillow's mode LAB, CIE L*a*b* under D50, to RGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    return ImageCms.applyTransform(image, transform) or image
