"""Images: read as Pillow would, resized and normalised as segment-anything would."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from samclip.errors import ImageError
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.pixels.decode import MAX_SIDE
from samclip.runtime.pixels.image import DEFAULT_MAX_PIXELS, load_image, preprocess

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
        (RGB / 255, r"\* 255"),
        (RGB.astype(np.float16), r"\* 255"),
        (np.full((2, 2, 3), np.nan, np.float32), r"\* 255"),
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


@pytest.mark.parametrize("source", [None, 3, [[1, 2]], io.BytesIO(b"x"), torch.zeros(3, 2, 2)])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(ImageError, match=f"cannot be a {type(source).__name__}"):
        load_image(source)


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


def test_default_limit_is_where_pillow_warns() -> None:
    assert Image.MAX_IMAGE_PIXELS == DEFAULT_MAX_PIXELS


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


def test_the_users_pil_image_stays_as_it_is() -> None:
    image = Image.fromarray(RGB).convert("P")
    image.info["transparency"] = bytes(range(256))
    before = dict(image.info)
    got = load_image(image)
    assert image.mode == "P"
    assert image.info == before
    del image.info["transparency"]
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_a_closed_pil_image_is_refused(photo_path: Path) -> None:
    image = Image.open(photo_path)
    image.close()
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(image)


def test_pillows_own_limit_is_not_used() -> None:
    """An image that Pillow would warn of is read without a word when the caller allows it."""
    data = encode(Image.new("1", (30_000, 3_000)))  # 90 megapixels of one bit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="30000 x 3000 pixels, at most 89,478,485"):
            load_image(data)
        assert load_image(data, max_pixels=90_000_000).shape == (3_000, 30_000, 3)
