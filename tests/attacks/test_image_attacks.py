"""Odd, damaged and hostile image files: the right pixels or one ImageError; never a hang."""

from __future__ import annotations

import contextlib
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from damage import COUNTS, draw_bits, flip_bit
from figures import Figures
from image_files import HUGE, KINDS, REFUSED, RGB, chunk, encode, in_mode, png_header
from numpy.typing import NDArray
from own_process import run_alone
from PIL import Image, ImageFile

from samclip.errors import ImageError
from samclip.runtime.pixels.image import load_image

ORIENTATION = 0x0112


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_images(name: str, tmp_path: Path, figures: Figures) -> None:
    data, expected, tolerance = KINDS[name]
    wrong_extension = tmp_path / "image.xyz"
    wrong_extension.write_bytes(data)
    for source in (data, wrong_extension):
        got = load_image(source)
        assert got.shape == (40, 60, 3)
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - expected).max() <= tolerance
    figures.add("image: kinds of files", count=1, found="right pixels, whatever the extension")


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_refused_kinds(data: bytes, figures: Figures) -> None:
    with pytest.raises(ImageError):
        load_image(data)
    figures.add("image: files of no allowed kind", count=1, found="refused")


def test_wrong_extension_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(KINDS["PNG RGB"][0])
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg"), RGB)


def test_16_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 1, 128, 129, 256, 257, 32767, 32768, 65534, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    for image in (Image.fromarray(values), encode(values, "PNG"), encode(values, "TIFF")):
        np.testing.assert_array_equal(load_image(image)[..., 0], expected)
    big_endian = Image.frombytes("I;16B", (10, 1), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_image(big_endian)[..., 0], expected)


@pytest.mark.parametrize("name", ["F", "I"])
def test_pil_images_of_unknown_range_are_refused(name: str) -> None:
    with pytest.raises(ImageError, match=f"mode '{name}', whose range is unknown"):
        load_image(in_mode(name))


TURNED = {  # how the camera stored an upright picture, by the EXIF specification
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(kind: str, orientation: int, figures: Figures) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(TURNED[orientation](RGB))
    data = encode(stored, kind, exif=exif, lossless=True, quality=95)
    got = load_image(data)
    assert got.shape == RGB.shape
    tolerance = 12 if kind == "JPEG" else 0
    assert np.abs(got.astype(int) - RGB).max() <= tolerance
    figures.add("image: EXIF orientation 1 to 8", count=1, found="applied once")


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientations_that_do_not_exist_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    np.testing.assert_array_equal(load_image(encode(RGB, "PNG", exif=exif)), RGB)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (65_535, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert load_image(encode(Image.new("RGB", size), kind)).shape == (size[1], size[0], 3)


# Bytes at a file's end without which the picture may still be whole: markers and checksums.
BLOCK_PIXELS = 256  # the last group of blocks of a JPEG: what its last bytes may stand for
ENDS = {"PNG": 16, "JPEG": 4, "GIF": 2}
TRUNCATABLE = [
    "PNG RGB",
    "PNG 16 bit",
    "JPEG RGB",
    "JPEG progressive",
    "WebP",
    "WebP lossless",
    "BMP",
    "TIFF",
    "TIFF LZW",
    "GIF",
    "PPM",
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", TRUNCATABLE)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, about the rests of metadata
def test_truncated_files_are_refused(name: str, count: int, figures: Figures) -> None:
    data = KINDS[name][0]
    whole = load_image(data)
    lengths = {*np.linspace(0, len(data) - 1, count).astype(int), *range(len(data) - 9, len(data))}
    for length in sorted(lengths):
        if length < len(data) - ENDS.get(name.split(maxsplit=1)[0], 0):
            with pytest.raises(ImageError):
                load_image(data[:length])
            continue
        with contextlib.suppress(ImageError):
            wrong = np.abs(load_image(data[:length]).astype(int) - whole).max(axis=2) > 8
            assert wrong.sum() <= BLOCK_PIXELS
    figures.add(f"image: {name} truncated", count=len(lengths), found="refused")


def test_truncated_files_are_refused_even_if_pillow_accepts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for name in ("JPEG RGB", "PNG RGB"):
        with pytest.raises(ImageError):
            load_image(KINDS[name][0][:-200])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["JPEG RGB", "PNG RGB", "WebP", "TIFF LZW", "GIF", "BMP", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bits_give_pixels_or_an_error(name: str, count: int, figures: Figures) -> None:
    data, refused = KINDS[name][0], 0
    for bit in draw_bits(data, count):
        try:
            got = load_image(flip_bit(data, bit), max_pixels=10_000_000)
        except ImageError:
            refused += 1
            continue
        assert got.dtype == np.uint8
        assert got.ndim == 3
        assert got.shape[2] == 3
    found = f"{refused} refused, {count - refused} give pixels"
    figures.add(f"image: {name} with a flipped bit", count=count, found=found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_photos(kind: str, photo: NDArray[np.uint8], figures: Figures) -> None:
    """Files of a real size: small ones have too few places to damage."""
    data, count, refused = encode(photo, kind), 500, 0
    for length in np.linspace(0, len(data) - 1 - ENDS.get(kind, 0), count).astype(int):
        with pytest.raises(ImageError):
            load_image(data[:length])
    figures.add(f"image: {kind} photo truncated", count=count, found="refused")
    for bit in draw_bits(data, count, seed=1):
        try:
            assert load_image(flip_bit(data, bit)).dtype == np.uint8
        except ImageError:
            refused += 1
    found = f"{refused} refused, {count - refused} give pixels"
    figures.add(f"image: {kind} photo with a flipped bit", count=count, found=found)


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_headers(count: int, figures: Figures) -> None:
    """Each format's first bytes, then noise."""
    rng = np.random.default_rng(0)
    starts = [data[:20] for data, _, _ in KINDS.values()]
    refused = 0
    for number in range(count):
        noise = rng.integers(0, 256, rng.integers(0, 2000), dtype=np.uint8).tobytes()
        data = starts[number % len(starts)] + noise
        try:
            load_image(data, max_pixels=10_000_000)
        except ImageError:
            refused += 1
    found = f"{refused:,} refused, {count - refused:,} give pixels"
    figures.add("image: noise after a format's first bytes", count=count, found=found)


@pytest.mark.parametrize("size", [(12_000, 12_000), (20_000, 20_000), (60_000, 60_000)])
@pytest.mark.parametrize("kind", HUGE)
def test_huge_sizes_are_refused(kind: str, size: tuple[int, int], figures: Figures) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's DecompressionBombWarning among them
        with pytest.raises(ImageError, match=f"{size[0]} x {size[1]} pixels, at most 134,217,728"):
            load_image(HUGE[kind](*size))
    name = f"image: header of {size[0]:,} x {size[1]:,}"
    figures.add(name, count=1, found="refused before decoding")


@pytest.mark.parametrize("size", [(2**31 - 1, 1), (1, 70_000), (2**24, 5)])
def test_lines_too_long_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="pixels, a"):
        load_image(png_header(*size))


def test_huge_sizes_are_refused_with_little_memory(tmp_path: Path, figures: Figures) -> None:
    """At most 50 MB more than before, however large the claim."""
    for kind, make in HUGE.items():
        (tmp_path / kind).write_bytes(make(60_000, 60_000))
    real = encode(Image.new("1", (20_000, 20_000)), "PNG")  # 400 megapixels that do exist
    (tmp_path / "real").write_bytes(real)
    code = (
        "import json, sys\n"
        "from own_process import peak\n"
        "from samclip.errors import ImageError\n"
        "from samclip.runtime.pixels.image import load_image\n"
        f"load_image({bytes(KINDS['PNG RGB'][0])!r})\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load_image(path)\n"
        "        sys.exit(path)\n"
        "    except ImageError:\n"
        "        pass\n"
        "print(json.dumps(peak() - before))\n"
    )
    paths = list(tmp_path.iterdir())
    grown = run_alone(code, *paths) / 1e6
    assert grown <= 50
    found = f"refused, the process grows by {grown:.0f} MB"
    figures.add("image: memory while huge images are refused", count=len(paths), found=found)


def test_text_that_unpacks_to_gigabytes() -> None:
    """A PNG's compressed comment is not unpacked."""
    bomb = zlib.compress(bytes(200_000_000), 9)
    text = chunk(b"zTXt", b"comment\0\0" + bomb)
    png = KINDS["PNG RGB"][0]
    np.testing.assert_array_equal(load_image(png[:33] + text + png[33:]), RGB)
