"""Images: read as Pillow would, resized and normalised as segment-anything would."""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from samclip.errors import ImageError, InputError, InputWarning
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.decode import MAX_SIDE
from samclip.runtime.pixels.image import (
    Letterbox,
    load_image,
    preprocess,
)
from samclip.runtime.pixels.limits import DEFAULT_MAX_PIXELS, check_max_pixels

SAM = Preprocessing(image_size=1024, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
RGB = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def preprocess_in_torch(image: NDArray[np.uint8], preprocessing: Preprocessing) -> torch.Tensor:
    """What `ResizeLongestSide.apply_image` and `Sam.preprocess` compute."""
    side = preprocessing.image_size
    scale = side * 1.0 / max(image.shape[:2])
    height, width = (max(1, int(s * scale + 0.5)) for s in image.shape[:2])
    resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    x = torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None]
    mean, std = (
        torch.Tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    x = (x - mean) / std
    return torch.nn.functional.pad(x, (0, side - width, 0, side - height))


@pytest.mark.parametrize("shape", [(400, 600), (601, 400), (1500, 10), (1, 1), (1, 10_000), (3, 3)])
def test_preprocess_is_that_of_segment_anything(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    got, letterbox = preprocess(image, SAM)
    expected = preprocess_in_torch(image, SAM).numpy()
    assert got.shape == (1, 3, 1024, 1024)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert letterbox.original_size == shape
    height, width = letterbox.input_size
    assert not got[:, :, height:].any()
    assert not got[..., width:].any()


def test_preprocess_of_a_photo(photo: NDArray[np.uint8]) -> None:
    for side in (224, 1024):
        settings = Preprocessing(image_size=side, mean=SAM.mean, std=SAM.std)
        got, _ = preprocess(photo, settings)
        np.testing.assert_allclose(got, preprocess_in_torch(photo, settings).numpy(), atol=1e-6)


def test_all_ways_in_give_the_same(photo_path: Path, photo: NDArray[np.uint8]) -> None:
    data = photo_path.read_bytes()
    sources = [photo_path, str(photo_path), data, bytearray(data), Image.open(photo_path), photo]
    for source in sources:
        np.testing.assert_array_equal(load_image(source), photo)


def test_a_contiguous_array_is_not_copied() -> None:
    assert load_image(RGB) is RGB


@pytest.mark.parametrize(
    "view",
    [RGB[::-1], RGB[:, ::-1], RGB[..., ::-1], RGB[::2, ::3], RGB.transpose(1, 0, 2)],
    ids=["up", "left", "bgr", "strided", "transposed"],
)
def test_any_layout_gives_the_contiguous_copy(view: NDArray[np.uint8]) -> None:
    got = load_image(view)
    np.testing.assert_array_equal(got, view)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(preprocess(view, SAM)[0], preprocess(view.copy(), SAM)[0])


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (RGB[..., 0], "np.stack"),
        (RGB[..., :1], "np.repeat"),
        (np.dstack([RGB, RGB[..., :1]]), r"image\[\.\.\., :3\]"),
        (RGB[..., :2], "8-bit RGB"),
        (RGB.transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
        (RGB[None], r"images\[0\]"),
        (RGB[0, 0], "three axes"),
        (np.ones((), np.uint8), "three axes"),
        (RGB / 255, r"\(image \* 255\)"),
        (RGB.astype(np.float16), r"in \[0, 255\]: image.round\(\).astype"),
        (RGB.transpose(2, 0, 1) / 255, r"transpose\(1, 2, 0\).*\* 255"),
        (RGB.astype(np.float32) * 257, r"image / 65535 \* 255"),
        (RGB / 127.5 - 1, "undo the normalisation"),
        (np.full((2, 2, 3), np.nan, np.float32), "nan_to_num"),
        (np.full((2, 2, 3), np.inf, np.float32), "nan_to_num"),
        (RGB.astype(np.int64), r"in \[0, 255\]: image.astype"),
        (RGB.astype(np.uint16) * 16, r"image / 4095 \* 255.*12 bits"),
        (RGB.astype(np.uint16) * 257, r"image / 65535 \* 255"),
        (RGB > 3, r"astype\(np.uint8\) \* 255"),
        (RGB.astype(np.int32), "8-bit RGB"),
        (RGB.astype(np.int8), "8-bit RGB"),
        (RGB.astype(np.uint16), "8-bit RGB"),
        (RGB > 3, "8-bit RGB"),
        (RGB.astype(np.complex64), "8-bit RGB"),
        (RGB.astype(object), "8-bit RGB"),
        (RGB.astype("U3"), "8-bit RGB"),
        (RGB[:0], "empty"),
        (RGB[:, :0], "empty"),
        (np.zeros((0, 0, 3), np.uint8), "empty"),
        (np.zeros((1, MAX_SIDE + 1, 3), np.uint8), "65,535 a side"),
    ],
)
def test_other_arrays_are_refused_with_a_remedy(array: NDArray[Any], hint: str) -> None:
    for use in (load_image, lambda image: preprocess(image, SAM)):
        with pytest.raises(ImageError, match=hint):
            use(array)


class Holder:
    """An object with an array, as other libraries have."""

    __array_interface__ = RGB.__array_interface__


class Pathless:
    """A path that gives a number."""

    def __fspath__(self) -> Any:
        return 3


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (None, "OpenCV's imread returns None.*Pass a path"),
        ([RGB, RGB], "one image at a time"),
        (["a.jpg"], "one image at a time"),
        (3, "Pass a path"),
        ([[1, 2]], r"numpy.array\(image"),
        (io.BytesIO(b"x"), r"what its read\(\) returns"),
        (torch.zeros(3, 2, 2), r"permute\(1, 2, 0\)"),
        (memoryview(b"x"), r"bytes\(image\)"),
        (Holder(), "numpy.asarray"),
        (Pathless(), "gives no path"),
    ],
)
def test_other_types_are_refused(source: Any, hint: str) -> None:
    with pytest.raises(ImageError, match=f"cannot be a {type(source).__name__}.*{hint}"):
        load_image(source)


def test_paths_of_all_kinds(tmp_path: Path, photo_path: Path) -> None:
    """Entries of a listed folder, of text or bytes; no path is taken for a file's contents."""
    folder = photo_path.parent
    for listed in (os.fspath(folder), os.fsencode(folder)):
        with os.scandir(listed) as entries:
            for entry in entries:
                if os.fsdecode(entry.name) == photo_path.name:
                    assert load_image(entry).shape == load_image(photo_path).shape
    with pytest.raises(ImageError, match="the path of one"):
        load_image(os.fsencode(photo_path))
    with pytest.raises(ImageError, match="path is empty"):
        load_image("")
    (tmp_path / "link").symlink_to("nowhere.jpg")
    with pytest.raises(ImageError, match=r"a link to 'nowhere.jpg', which is not there"):
        load_image(tmp_path / "link")
    with pytest.raises(ImageError, match="data URL") as caught:
        load_image("data:image/png;base64," + "A" * 100_000)
    assert len(str(caught.value)) < 500


def test_masked_pixels_are_not_ignored() -> None:
    whole = np.ma.MaskedArray(RGB, mask=np.zeros(RGB.shape, bool))
    np.testing.assert_array_equal(load_image(whole), RGB)
    with pytest.raises(ImageError, match=r"masked pixels.*filled"):
        load_image(np.ma.masked_equal(RGB, RGB[0, 0, 0]))


def test_arrays_have_the_limit_too() -> None:
    assert load_image(RGB, max_pixels=77) is RGB
    with pytest.raises(ImageError, match="at most 76"):
        load_image(RGB, max_pixels=76)


def test_files_over_the_limit() -> None:
    data = encode(Image.fromarray(RGB))
    assert load_image(data, max_pixels=77).shape == RGB.shape
    for source in (data, Image.fromarray(RGB)):
        with pytest.raises(ImageError, match="11 x 7 pixels, at most 76"):
            load_image(source, max_pixels=76)


def test_the_default_limit_takes_photos_of_108_megapixels() -> None:
    assert 12_000 * 9_000 <= DEFAULT_MAX_PIXELS == 134_217_728


@pytest.mark.parametrize("limit", [0, -1, 1.5, "9", True])
def test_limits_that_are_no_number_of_pixels(limit: Any) -> None:
    with pytest.raises(InputError, match="max_pixels must be"):
        check_max_pixels(limit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jpg", "No such file"),
        ("folder", "is a directory"),
        ("empty.jpg", "is empty"),
        ("fifo", "not a plain file"),
        ("notes.txt", "is not of the formats JPEG, PNG"),
        ("notes.txt/x", "Not a directory"),
        ("loop", "symbolic links"),
        ("nul\0.jpg", "null"),
        ("x" * 300, "too long"),
    ],
)
def test_bad_paths(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match=message):
        load_image(f"{tmp_path}/{name}")


def test_an_address_is_not_fetched() -> None:
    with pytest.raises(ImageError, match="Download it first"):
        load_image("https://example.org/cat.jpg")


def test_a_link_to_a_file_is_followed(tmp_path: Path, photo_path: Path) -> None:
    (tmp_path / "link").symlink_to(photo_path)
    assert load_image(tmp_path / "link").shape == (400, 600, 3)


def test_files_too_large_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(2**29 + 1)
    with pytest.raises(ImageError, match="536,870,913 bytes"):
        load_image(tmp_path / "large.jpg")


def test_targa_files_are_called_so() -> None:
    with pytest.raises(ImageError, match="a Targa image"):
        load_image(encode(Image.new("RGB", (20, 10)), "TGA"))


def test_the_users_pil_image_stays_as_it_is() -> None:
    image = Image.fromarray(RGB).convert("P")
    image.info["transparency"] = bytes(range(256))
    before = dict(image.info)
    got = load_image(image)
    assert image.mode == "P"
    assert image.info == before
    del image.info["transparency"]
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_a_pil_images_pixels_are_its_callers() -> None:
    """Metadata in `info` outlive what they describe: they turn nothing, but may be mentioned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(RGB), "PNG", exif=exif)
    upright = np.rot90(RGB, -1)
    np.testing.assert_array_equal(load_image(data), upright)
    stored = Image.open(io.BytesIO(data))
    for image in (
        stored.transpose(Image.Transpose.ROTATE_270),
        stored.crop((0, 0, 5, 4)),
        stored.resize((20, 30)),
        ImageOps.exif_transpose(stored),
        stored.convert("RGBA").convert("RGB"),
    ):
        got = load_image(image)
        np.testing.assert_array_equal(got, np.asarray(image))
    with pytest.warns(InputWarning, match="EXIF orientation 6.*exif_transpose"):
        np.testing.assert_array_equal(load_image(stored), RGB)


@pytest.mark.parametrize("mode", ["La", "RGBa", "LAB", "HSV", "YCbCr", "PA", "RGBX"])
def test_pil_images_of_rarer_modes(mode: str) -> None:
    image = Image.fromarray(RGB)
    image.putalpha(255)
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image.convert("RGB"), srgb, lab, outputMode="LAB")
    elif mode == "PA":
        image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE).convert("PA")
    elif mode == "La":
        image = image.convert("LA").convert("La")
    else:
        image = (image if mode == "RGBa" else image.convert("RGB")).convert(mode)
    expected = np.asarray(Image.fromarray(RGB).convert("L").convert("RGB")) if mode == "La" else RGB
    assert np.abs(load_image(image).astype(int) - expected).mean() < 12


def test_too_little_memory_is_no_damage(
    photo_path: Path, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a time limit that the caller's own code raises inside the decoder."""

    class TimeLimitError(Exception):
        pass

    def lack(*_: object) -> None:
        raise MemoryError

    def limit() -> None:
        raise TimeLimitError

    with pytest.raises(TimeLimitError):
        load_image(photo_path, pause=limit)
    data = encode(Image.fromarray(photo), "JPEG", progressive=True)
    monkeypatch.setattr("samclip.runtime.pixels.jpeg.reserve", lack)
    with pytest.raises(MemoryError):
        load_image(data)


def test_a_closed_pil_image_is_refused(photo_path: Path) -> None:
    image = Image.open(photo_path)
    image.close()
    with pytest.raises(ImageError, match="was closed before its pixels were read"):
        load_image(image)


@pytest.mark.parametrize("text", ["='6'", '="6"', ' = "6"', ">6<"])
def test_orientation_of_xmp_in_every_spelling(text: str) -> None:
    image = Image.effect_noise((32, 16), 90)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation" + text.encode() + b"/>"
    data = encode(image, "JPEG", quality=95)
    block = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    upright = np.rot90(load_image(data), -1)
    assert np.array_equal(load_image(data[:2] + block + data[2:]), upright)


def test_pillows_own_limit_is_not_used() -> None:
    """An image that Pillow would warn of is read without a word when the caller allows it."""
    data = encode(Image.new("1", (45_000, 3_000)))  # 135 megapixels of one bit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="45000 x 3000 pixels, at most 134,217,728"):
            load_image(data)
        assert load_image(data, max_pixels=135_000_000).shape == (3_000, 45_000, 3)


SIZES = [(400, 600), (600, 400), (1024, 1024), (1, 1), (1, 10_000), (10_000, 1), (1500, 2250)]
SIDES = st.integers(1, 5000)


def postprocess_masks(
    masks: torch.Tensor, input_size: tuple[int, int], original_size: tuple[int, int], side: int
) -> torch.Tensor:
    """What `Sam.postprocess_masks` computes."""
    masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
    masks = masks[..., : input_size[0], : input_size[1]]
    return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", SIZES)
def test_input_size_is_that_of_resize_longest_side(size: tuple[int, int]) -> None:
    box = Letterbox.fit(size, 1024)
    scale = 1024 * 1.0 / max(size)
    assert box.input_size == tuple(max(1, int(side * scale + 0.5)) for side in size)
    assert box.original_size == size
    assert box.image_size == 1024


@given(SIDES, SIDES, st.sampled_from([64, 224, 1024]))
def test_input_always_fits(height: int, width: int, side: int) -> None:
    box = Letterbox.fit((height, width), side)
    assert max(box.input_size) == side
    assert min(box.input_size) >= 1
    ratio = min(box.input_size) / side, min(height, width) / max(height, width)
    assert abs(ratio[0] - ratio[1]) <= 1 / side  # by rounding, or for the pixel that must be there


@pytest.mark.parametrize("size", SIZES)
def test_to_input_is_apply_coords(size: tuple[int, int]) -> None:
    box = Letterbox.fit(size, 1024)
    points = np.random.default_rng(0).uniform(0, 1, (3, 5, 2)) * (size[1], size[0])
    expected = points.copy()
    expected[..., 0] = expected[..., 0] * (box.input_size[1] / size[1])
    expected[..., 1] = expected[..., 1] * (box.input_size[0] / size[0])
    got = box.to_input(points)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected.astype(np.float32))  # exact
    corner = box.to_input([(size[1], size[0])])[0]
    np.testing.assert_allclose(corner, box.input_size[::-1], rtol=1e-6)
    assert box.to_input(np.zeros((0, 2))).shape == (0, 2)


def relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def white_noise(low: int) -> NDArray[np.float32]:
    return np.random.default_rng(low).normal(0, 10, (low, low)).astype(np.float32)


def blobs(low: int) -> NDArray[np.float32]:
    """Logits as smooth as those of masks."""
    coarse = torch.from_numpy(white_noise(low // 8))[None, None]
    return F.interpolate(coarse, (low, low), mode="bicubic").numpy()[0, 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("low", "side"), [(256, 1024), (64, 1024), (56, 224), (256, 336)])
def test_upscale_is_postprocess_masks(size: tuple[int, int], low: int, side: int) -> None:
    """The same map; nearer to the exact one than torch, which rounds coordinates to float32."""
    box = Letterbox.fit(size, side)
    for logits, tolerance in ((blobs(low), 1e-5), (white_noise(low), 5e-5)):
        masks = torch.from_numpy(logits)[None, None]
        in_torch = postprocess_masks(masks, box.input_size, size, side).numpy()[0, 0]
        exact = postprocess_masks(masks.double(), box.input_size, size, side).numpy()[0, 0]
        got = box.upscale(logits)
        assert got.shape == size
        assert got.dtype == np.float32
        assert relative_error(got, in_torch) <= tolerance
        assert relative_error(got, exact) <= 2e-5
        assert relative_error(got, exact) <= relative_error(in_torch, exact) + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80), st.sampled_from([64, 96, 224]))
def test_upscale_of_any_size(height: int, width: int, low: int, side: int) -> None:
    box = Letterbox.fit((height, width), side)
    logits = np.random.default_rng(low).normal(0, 10, (low, low)).astype(np.float32)
    expected = postprocess_masks(
        torch.from_numpy(logits)[None, None], box.input_size, (height, width), side
    ).numpy()[0, 0]
    # torch computes coordinates in float32: white noise shows it, up to 3e-5 from float64.
    assert relative_error(box.upscale(logits), expected) <= 1e-4


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 700) | st.sampled_from([240, 480]),
    st.integers(1, 700) | st.sampled_from([320, 640]),
    st.sampled_from([(1024, 256), (512, 128), (224, 56), (336, 256)]),  # the last by no whole step
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_upscale_above_is_a_part_of_upscale(
    height: int, width: int, scale: tuple[int, int], shaped: bool, seed: int
) -> None:
    side, low = scale
    shapes = [(side, side), (side * 3 // 4, side), (side, side * 9 // 16)]
    box = Letterbox.choose((height, width), side, shapes if shaped else [])
    random = np.random.default_rng(seed)
    grid, floor = box.grid(low), -1.0
    logits = random.normal(-8, 1, grid).astype(np.float32)
    row, column = (random.integers(0, count) for count in grid)
    blob = logits[row : row + random.integers(1, 20), column : column + random.integers(1, 20)]
    blob[:] = random.normal(0, 4, blob.shape)
    whole = box.upscale(logits)
    part, (rows, columns) = box.upscale_above(logits, floor)
    assert part.shape == whole[rows, columns].shape
    shown = (whole[rows, columns] > floor) | (part > floor)
    # OpenCV rounds positions to float32, which are larger in the whole. Values are up to 16.
    near = np.abs(whole[rows, columns] - part) <= 4e-4
    assert near[shown].all()
    outside = np.ones(whole.shape, bool)
    outside[rows, columns] = False
    assert (whole[outside] <= floor).all()
    apart = box.upscale_mask(logits, 0) != (whole > 0)
    assert np.abs(whole[apart]).max(initial=0) <= 4e-4


def test_a_small_mask_is_upscaled_alone() -> None:
    box = Letterbox.fit((480, 640), 1024)
    logits = np.full((256, 256), -8, np.float32)
    logits[100:110, 40:60] = 8
    part, (rows, columns) = box.upscale_above(logits, 0)
    assert part.size < 480 * 640 / 50
    np.testing.assert_array_equal(part, box.upscale(logits)[rows, columns])
    nothing, _ = box.upscale_above(logits, 9)
    assert 0 < nothing.size < 480 * 640 / 50 and nothing.max() == -8
    assert not box.upscale_mask(logits, 9).any()


def test_upscale_takes_other_layouts() -> None:
    box = Letterbox.fit((40, 60), 64)
    logits = np.random.default_rng(0).normal(0, 10, (16, 16)).astype(np.float32)
    expected = box.upscale(logits)
    np.testing.assert_array_equal(box.upscale(logits.T.copy().T), expected)
    np.testing.assert_array_equal(box.upscale(logits.astype(np.float64)), expected)
    np.testing.assert_array_equal(box.upscale(np.repeat(logits, 2, axis=1)[:, ::2]), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [14, 32, 64])
def test_token_mask_marks_every_token_that_touches_the_image(
    size: tuple[int, int], grid: int
) -> None:
    box = Letterbox.fit(size, 1024)
    image = torch.zeros(1, 1, 1024, 1024)
    image[..., : box.input_size[0], : box.input_size[1]] = 1
    got = box.token_mask(grid)
    assert got.shape == (1, grid, grid)
    assert got.dtype == np.float32
    rows, columns = (math.ceil(side / (1024 / grid)) for side in box.input_size)
    assert got.sum() == rows * columns
    if 1024 % grid == 0:
        np.testing.assert_array_equal(got, F.max_pool2d(image, 1024 // grid).numpy()[:, 0])


def test_numpy_ma_may_be_half_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is importing it, as a program does while its model loads."""
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))
    assert load_image(np.zeros((2, 3, 3), np.uint8)).shape == (2, 3, 3)
