"""TIFF files: of every kind of samples the true pixels or one error, and not the thumbnail."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from image_files import GREY, RGB
from made_tiffs import Page, write_tiff
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import ImageError
from samclip.runtime.pixels.image import load_image

THUMBNAIL = {254: (4, [1])}
STORAGE = list(product((False, True), (0, 16), (False, True)))  # planar, tile, deflate
# Deep samples that are not multiples of 257: their high byte alone would be another value.
RGB16 = np.random.default_rng(0).integers(0, 65_536, (40, 60, 3), dtype=np.uint16)
CMYK = np.asarray(Image.fromarray(RGB).convert("CMYK"))


def to_8_bits(values: NDArray[np.uint16], largest: int) -> NDArray[np.uint8]:
    return np.round(values / largest * 255).astype(np.uint8)


def as_grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values.reshape(40, 60, 1), 3, axis=2)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("planar", "tile", "deflate"), STORAGE)
def test_samples_of_every_kind(order: str, planar: bool, tile: int, deflate: bool) -> None:
    """Each bit depth and photometric interpretation, in strips and tiles, planes and pixels."""
    grey16 = RGB16[..., :1]
    grey12 = grey16 >> 4
    alpha = np.full((40, 60, 1), 9, np.uint8)
    cases: list[tuple[Page, NDArray[np.uint8]]] = [
        (Page(RGB), RGB),
        (Page(RGB16, bits=16), to_8_bits(RGB16, 65_535)),
        (Page(RGB16 >> 4, bits=12), to_8_bits(RGB16 >> 4, 4095)),
        (Page(np.dstack([RGB, alpha]), tags={338: (3, [2])}), RGB),
        (Page(np.dstack([RGB16, alpha]), bits=16, tags={338: (3, [2])}), to_8_bits(RGB16, 65_535)),
        (Page(GREY[..., None], photometric=1), as_grey(GREY)),
        (Page(GREY[..., None], photometric=0), as_grey(255 - GREY)),
        (Page(grey16, photometric=1, bits=16), as_grey(to_8_bits(grey16, 65_535))),
        (Page(grey16, photometric=0, bits=16), as_grey(255 - to_8_bits(grey16, 65_535))),
        (Page(grey12, photometric=1, bits=12), as_grey(to_8_bits(grey12, 4095))),
        (Page(GREY[..., None] >> 4, photometric=1, bits=4), as_grey((GREY >> 4) * 17)),
        (Page(GREY[..., None] >> 6, photometric=0, bits=2), as_grey(255 - (GREY >> 6) * 85)),
        (Page(CMYK, photometric=5), np.asarray(Image.fromarray(CMYK, "CMYK").convert("RGB"))),
    ]
    for page, expected in cases:
        page.planar, page.tile, page.deflate = planar and page.samples.shape[2] > 1, tile, deflate
        for predictor in (False, deflate and page.bits in (8, 16)):
            page.predictor = predictor
            got = load_image(write_tiff([page], order))
            np.testing.assert_array_equal(got, expected, str((page.photometric, page.bits)))
    big = write_tiff([Page(RGB16, bits=16, tags={256: (16, [60])})], order, big=True)
    np.testing.assert_array_equal(load_image(big), to_8_bits(RGB16, 65_535))


def test_palettes_of_8_and_16_bits() -> None:
    """Old writers stored a palette's colours in [0, 255] of 65,535."""
    colours = np.random.default_rng(1).integers(1, 256, (3, 16))
    indices = GREY[..., None] >> 4
    for factor, deflate in product((1, 257), (False, True)):
        tags = {320: (3, (colours * factor).ravel().tolist())}
        page = Page(indices, photometric=3, bits=4, deflate=deflate, tags=tags)
        expected = colours.T[indices[..., 0]].astype(np.uint8)
        np.testing.assert_array_equal(load_image(write_tiff([page])), expected)


def test_lab_and_ycbcr() -> None:
    """Colours of CIE L*a*b*, known from tables: sRGB white, mid grey and red under D50."""
    lab = np.array([[[255, 0, 0], [136, 0, 0], [138, 81, 70]]], np.uint8)
    expected = np.array([[[255, 255, 255], [127, 127, 127], [255, 0, 0]]])
    deep = np.array([[[65_535, 0, 0], [34_952, 0, 0], [35_466, 81 << 8, 70 << 8]]], np.uint16)
    moved = lab ^ np.array([0, 128, 128], np.uint8)
    for page in (Page(lab, 8), Page(deep, 8, bits=16), Page(moved, 9)):
        got = load_image(write_tiff([page])).astype(int)
        assert np.abs(got - expected).max() <= 5
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    whole = write_tiff([Page(ycbcr, 6, tags={530: (3, [1, 1])})])
    assert np.abs(load_image(whole).astype(int) - RGB).max() <= 3


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (
            Page(RGB16.view(np.int16), bits=16, tags={339: (3, [2] * 3)}),
            "signed samples of 16 bits",
        ),
        (Page(RGB.astype(np.float32), bits=32, tags={339: (3, [3] * 3)}), "floating-point"),
        (Page(GREY[..., None].astype(np.uint32), 1, bits=32), "rare kind"),
        (Page(RGB, 6, tags={530: (3, [2, 2])}), "rare kind"),
        (Page(RGB[..., :2]), "rare kind"),
        (Page(RGB, 32844), "rare kind"),
        (Page(RGB16, 1, bits=16), "3 bands, of which none is said to be red"),
        (Page(np.dstack([RGB, RGB]), 1, planar=True), "6 bands"),
        (Page(RGB, tags={259: (3, [50001])}), "compressed by WebP.*LZW or Deflate"),
        (Page(RGB, tags={259: (3, [9])}), "by a method of the number 9"),
        (Page(RGB, tags={273: (4, [60_000])}), "truncated or damaged"),
    ],
)
def test_unknown_ranges_and_meanings_are_refused(page: Page, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(write_tiff([page]))


def test_grey_with_alpha_in_a_plane_of_its_own() -> None:
    page = Page(np.dstack([GREY, GREY // 2]), 1, planar=True, tags={338: (3, [2])})
    assert np.array_equal(load_image(write_tiff([page])), as_grey(GREY))


def test_the_picture_is_not_the_thumbnail() -> None:
    small, mask = RGB[::4, ::4], Page(GREY[..., None], 4, tags={254: (4, [4])})
    for thumbnail in (Page(small, tags=THUMBNAIL), Page(small)):  # marked, and by its shape
        for pages in ([thumbnail, Page(RGB)], [mask, thumbnail, Page(RGB)]):
            np.testing.assert_array_equal(load_image(write_tiff(pages)), RGB)
    other = Page(np.zeros((200, 90, 3), np.uint8))  # a second page of another shape
    np.testing.assert_array_equal(load_image(write_tiff([Page(RGB), other])), RGB)
    only = write_tiff([Page(small, tags=THUMBNAIL), Page(RGB, tags=THUMBNAIL)])
    np.testing.assert_array_equal(load_image(only), RGB)


def test_the_picture_below_the_first_directory() -> None:
    """The thumbnail's tag SubIFDs leads to the picture."""
    pages = [Page(RGB[::4, ::4], tags=THUMBNAIL | {330: (4, [0])}), Page(RGB)]
    data = bytearray(write_tiff(pages))
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    link = first + 2 + 12 * count
    entries = range(first + 2, link, 12)
    entry = next(at for at in entries if int.from_bytes(data[at : at + 2], "little") == 330)
    data[entry + 8 : entry + 12] = data[link : link + 4]
    data[link : link + 4] = bytes(4)
    np.testing.assert_array_equal(load_image(bytes(data)), RGB)


@pytest.mark.parametrize("tags", [{262: (3, [32803])}, {50706: (1, [1, 4, 0, 0])}])
def test_camera_raw_is_refused_by_name(tags: dict[int, tuple[int, list[int]]]) -> None:
    raw = Page(GREY[..., None], 1, tags=tags)
    with pytest.raises(ImageError, match="camera raw"):
        load_image(write_tiff([Page(RGB[::4, ::4], tags=THUMBNAIL), raw]))


def test_orientation_of_the_tag_is_applied() -> None:
    turned = Page(np.ascontiguousarray(np.rot90(RGB)), tags={274: (3, [6])})
    deep = Page(np.rot90(RGB16).copy(), bits=16, tags={274: (3, [6])})
    np.testing.assert_array_equal(load_image(write_tiff([turned])), RGB)
    np.testing.assert_array_equal(load_image(write_tiff([deep])), to_8_bits(RGB16, 65_535))


def test_directories_without_end_and_strips_without_number() -> None:
    loop = bytearray(write_tiff([Page(RGB)]))
    start = int.from_bytes(loop[4:8], "little")
    count = int.from_bytes(loop[start : start + 2], "little")
    loop[start + 2 + 12 * count :][:4] = loop[4:8]
    np.testing.assert_array_equal(load_image(bytes(loop)), RGB)
    tall = Page(np.zeros((10, 10, 1), np.uint8), 1, tags={257: (4, [60_000]), 278: (4, [1])})
    with pytest.raises(ImageError, match="truncated"):
        load_image(write_tiff([tall]))
    thin = {256: (4, [1100]), 257: (4, [60_000]), 322: (4, [16]), 323: (4, [16])}
    with pytest.raises(ImageError, match="131,072 strips or tiles"):
        load_image(write_tiff([Page(np.zeros((16, 16, 3), np.uint8), tile=16, tags=thin)]))
    same = {273: (4, [16] * 40), 279: (4, [2**24] * 40), 278: (4, [1])}
    with pytest.raises(ImageError, match="overlap"):
        load_image(write_tiff([Page(RGB, tags=same)]))
