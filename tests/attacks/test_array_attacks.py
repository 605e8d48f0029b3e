"""Arrays of every kind as images: one ImageError, or exactly the result of a contiguous copy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured_bundle import write_coloured_bundle
from figures import Figures
from image_files import encode
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from PIL import Image

import samclip
from samclip.errors import ImageError, InputError, PromptError
from samclip.runtime.model import Model

PIXELS = np.random.default_rng(7).integers(0, 256, (40, 60, 3), dtype=np.uint8)
NAMES = ["a cat", "a dog"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("arrays")
    bundle = write_coloured_bundle(folder / "bundle")
    with samclip.load(bundle, "onnxruntime", threads=1, cache_dir=folder) as loaded:
        yield loaded


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def unaligned(array: NDArray[Any]) -> NDArray[Any]:
    """The same pixels at an odd address."""
    memory = np.zeros(array.size + 1, np.uint8)
    memory[1:] = array.ravel()
    return memory[1:].reshape(array.shape)


GOOD: dict[str, NDArray[Any]] = {
    "upside down": PIXELS[::-1],
    "mirrored": PIXELS[:, ::-1],
    "BGR view": PIXELS[..., ::-1],
    "all strides negative": PIXELS[::-1, ::-1, ::-1],
    "every second row": PIXELS[::2],
    "every third column": PIXELS[:, ::3],
    "a crop": PIXELS[5:30, 7:50],
    "transposed": PIXELS.transpose(1, 0, 2),
    "Fortran order": np.asfortranarray(PIXELS),
    "channels first in memory": np.ascontiguousarray(PIXELS.transpose(2, 0, 1)).transpose(1, 2, 0),
    "alpha sliced off": np.dstack([PIXELS, PIXELS[..., 0]])[..., :3],
    "one pixel repeated by a stride of 0": np.broadcast_to(PIXELS[0, 0], (40, 60, 3)),
    "rows that overlap": as_strided(PIXELS, (20, 60, 3), (90, 3, 1), writeable=False),
    "read-only": read_only(PIXELS),
    "at an odd address": unaligned(PIXELS),
    "a subclass": PIXELS.view(np.recarray),
    "a masked array without masked pixels": np.ma.MaskedArray(PIXELS),
    "1x1": PIXELS[:1, :1],
    "1x10000": np.tile(PIXELS[:1], (1, 200, 1))[:, :10_000],
    "10000x1": np.tile(PIXELS[:, :1], (250, 1, 1)),
    "black": np.zeros_like(PIXELS),
    "white": np.full_like(PIXELS, 255),
}
BAD: dict[str, NDArray[Any]] = {
    "float in [0, 1]": PIXELS / 255,
    "float32 in [0, 255]": PIXELS.astype(np.float32),
    "float16": PIXELS.astype(np.float16),
    "NaN": np.full(PIXELS.shape, np.nan),
    "infinity": np.full(PIXELS.shape, np.inf, np.float32),
    "one NaN": np.where(np.arange(3) == 1, np.nan, PIXELS.astype(np.float32)),
    "int8": PIXELS.astype(np.int8),
    "uint16": PIXELS.astype(np.uint16) * 257,
    "int64": PIXELS.astype(np.int64),
    "big-endian uint16": PIXELS.astype(">u2"),
    "bool": PIXELS > 99,
    "complex": PIXELS.astype(np.complex64),
    "objects": PIXELS.astype(object),
    "strings": PIXELS.astype("U3"),
    "bytes": PIXELS.astype("S3"),
    "dates": PIXELS.astype("M8[s]"),
    "a structure": np.zeros((40, 60), [("r", "u1"), ("g", "u1"), ("b", "u1")]),
    "grey": PIXELS[..., 0],
    "one channel": PIXELS[..., :1],
    "two channels": PIXELS[..., :2],
    "four channels": np.dstack([PIXELS, PIXELS[..., 0]]),
    "no channel": PIXELS[..., :0],
    "channels first": PIXELS.transpose(2, 0, 1),
    "a batch": PIXELS[None],
    "a video": np.stack([PIXELS] * 3),
    "five axes": PIXELS[None, None],
    "a row of pixels": PIXELS[0],
    "a pixel": PIXELS[0, 0],
    "a number": np.ones((), np.uint8),
    "no rows": PIXELS[:0],
    "no columns": PIXELS[:, :0],
    "nothing": np.zeros((0, 0, 3), np.uint8),
    "masked pixels": np.ma.masked_less(PIXELS, 3),
    "a line too long": np.broadcast_to(PIXELS[:1, :1], (1, 70_000, 3)),
    "a terabyte by a stride of 0": np.broadcast_to(PIXELS[0, 0], (600_000, 600_000, 3)),
}


@pytest.mark.parametrize("array", GOOD.values(), ids=GOOD)
def test_the_result_is_that_of_the_contiguous_copy(
    array: NDArray[Any], model: Model, figures: Figures
) -> None:
    copy = np.array(array, order="C", subok=False)
    got, expected = model.encode(array), model.encode(copy)
    height, width = copy.shape[:2]
    for scene in (got, expected):
        assert scene.size == (height, width)
        assert type(scene.image) is np.ndarray
    np.testing.assert_array_equal(got.image, copy)
    point = [(width / 2, height / 2)]
    np.testing.assert_array_equal(got.segment(point).masks, expected.segment(point).masks)
    one, other = got.classify(NAMES), expected.classify(NAMES)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert np.isfinite(one.probabilities).all()
    figures.add("arrays: odd but valid images", count=1, found="the result of the contiguous copy")


@pytest.mark.parametrize("array", BAD.values(), ids=BAD)
def test_other_arrays_are_refused(array: NDArray[Any], model: Model, figures: Figures) -> None:
    passes = model.encoder_passes
    with pytest.raises(ImageError) as caught:
        model.encode(array)
    assert model.encoder_passes == passes
    message = str(caught.value)
    assert re.search(r"HxWx3|is empty|at most|is a masked array", message), message
    assert re.search(r"Repeat|Pass|Give|go last|Drop|Scale|Convert|Check|Make", message), message
    figures.add("arrays: images of other types, ranks and sizes", count=1, found="ImageError")


def test_an_array_that_changes_afterwards_changes_nothing(model: Model, figures: Figures) -> None:
    mine = PIXELS.copy()
    scene = model.encode(mine)
    mine[:] = 0
    np.testing.assert_array_equal(scene.image, PIXELS)
    with pytest.raises(ValueError, match="read-only"):
        scene.image[0] = 0
    figures.add("arrays: the caller's array changes later", count=1, found="the scene does not")


def test_the_limit_of_pixels_is_the_models(tmp_path: Path) -> None:
    bundle = write_coloured_bundle(tmp_path / "bundle")
    with samclip.load(bundle, "onnxruntime", cache_dir=tmp_path, max_pixels=2399) as small:
        for image in (PIXELS, Image.fromarray(PIXELS), encode(PIXELS, "PNG")):
            with pytest.raises(ImageError, match=r"at most 2,399.*max_pixels"):
                small.encode(image)
        assert small.encode(PIXELS[1:]).size == (39, 60)
    with pytest.raises(InputError, match="max_pixels must be"):
        samclip.load(bundle, max_pixels=0)


MASKS: dict[str, Callable[[], Any]] = {
    "of another size": lambda: np.zeros((3, 4), bool),
    "of whole numbers beyond 1": lambda: np.full((40, 60), 7),
    "of NaN": lambda: np.full((40, 60), np.nan),
    "four axes": lambda: np.zeros((1, 1, 40, 60), bool),
    "strings": lambda: np.full((40, 60), "x"),
    "none": lambda: None,
    "a list of lists of other lengths": lambda: [[True], [True, False]],
}


@pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
def test_masks_to_be_named(make: Callable[[], Any], model: Model, figures: Figures) -> None:
    with model.encode(PIXELS) as scene, pytest.raises(PromptError):
        scene.name(make(), NAMES)
    figures.add("arrays: masks to be named that fit no image", count=1, found="PromptError")


def test_a_file_mapped_into_memory(model: Model, tmp_path: Path, figures: Figures) -> None:
    path = tmp_path / "pixels"
    path.write_bytes(PIXELS.tobytes())
    mapped = np.memmap(path, np.uint8, "r", shape=PIXELS.shape)
    np.testing.assert_array_equal(model.encode(mapped).image, PIXELS)
    figures.add("arrays: odd but valid images", count=1, found="the result of the contiguous copy")
