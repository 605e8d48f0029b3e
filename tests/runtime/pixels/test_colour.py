"""Colours: converted from the file's profile to sRGB; left alone where there is nothing to do."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import GREY, RGB, encode
from numpy.typing import NDArray
from PIL import Image, ImageCms

from samclip.runtime.pixels.image import load_image

XYZ_TO_D50 = np.array(  # of sRGB's primaries, rows X, Y and Z (ICC.1:2010, annex F)
    [[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
)


def profile(space: bytes, columns: list[NDArray[np.float64]], gamma: float) -> bytes:
    """Write an ICC profile of a matrix, or of one curve for grey."""

    def s15(values: NDArray[np.float64] | list[float]) -> bytes:
        return np.round(np.array(values) * 65_536).astype(">i4").tobytes()

    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big")
    text = b"desc" + bytes(4) + (5).to_bytes(4, "big") + b"test\0" + bytes(78)
    tags = {b"desc": text, b"wtpt": b"XYZ " + bytes(4) + s15([0.9642, 1, 0.8249])}
    names = (b"r", b"g", b"b")
    for name, column in zip(names, columns, strict=False):
        tags[name + b"XYZ"] = b"XYZ " + bytes(4) + s15(column)
        tags[name + b"TRC"] = curve
    if not columns:
        tags[b"kTRC"] = curve
    body, table = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + (start + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    size = start + len(body)
    header = size.to_bytes(4, "big") + b"lcms\x02\x10\0\0mntr" + space + b"XYZ " + bytes(12)
    header += b"acsp" + bytes(28) + s15([0.9642, 1, 0.8249])
    return header.ljust(128, b"\0") + len(tags).to_bytes(4, "big") + table + body


SWAPPED = profile(b"RGB ", [XYZ_TO_D50[:, i] for i in (2, 1, 0)], 2.2)  # red and blue
DARK_GREY = profile(b"GRAY", [], 1.0)  # linear


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_colours_are_converted(kind: str) -> None:
    options = {"quality": 100, "lossless": True, "icc_profile": SWAPPED}
    options |= {"subsampling": 0} if kind == "JPEG" else {}
    got = load_image(encode(RGB[..., ::-1].copy(), kind, **options)).astype(int)
    assert np.abs(got - RGB).max() <= 12  # gamma 2.2 is not quite sRGB's curve
    grey = encode(GREY, kind, icc_profile=DARK_GREY, quality=100, lossless=True)
    if kind != "WEBP":  # which has no grey
        linear = GREY / 255
        expected = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        error = np.abs(load_image(grey) - 255 * expected[..., None])
        assert error[GREY > 20].max() <= 4


def test_deep_grey_and_palettes_are_converted() -> None:
    deep = encode(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG", icc_profile=DARK_GREY)
    np.testing.assert_array_equal(
        load_image(deep), load_image(encode(GREY, "PNG", icc_profile=DARK_GREY))
    )
    palette = Image.fromarray(RGB[..., ::-1].copy()).convert("P", palette=Image.Palette.ADAPTIVE)
    got = load_image(encode(palette, "PNG", icc_profile=SWAPPED)).astype(int)
    assert np.abs(got - np.asarray(palette.convert("RGB"))[..., ::-1]).max() <= 12


@pytest.mark.parametrize(
    "icc",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profile(b"RGB ", list(XYZ_TO_D50.T), 2.2)[:-40],  # cut
        DARK_GREY,  # of other colours than the pixels
        b"garbage",
        b"",
    ],
    ids=["sRGB", "cut", "grey", "garbage", "empty"],
)
def test_pixels_stay_where_there_is_nothing_to_convert(icc: bytes) -> None:
    np.testing.assert_array_equal(load_image(encode(RGB, "PNG", icc_profile=icc)), RGB)


def test_a_pil_images_colours_are_its_callers() -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = SWAPPED
    np.testing.assert_array_equal(load_image(image), RGB)
