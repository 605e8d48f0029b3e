"""Hostile annotations in COCO's format: none reaches pycocotools, which crashes on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import Figures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from samclip.benchmarks.data.coco import read_coco
from samclip.errors import InputError
from samclip.runtime.results.coco import ImageRecord, Rle, to_rle

# pycocotools', under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FAULT = "COCO annotations: outlines, sizes and names"
COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]
SIZE = (4, 6)
TRIANGLE = [[0, 0, 3, 0, 3, 3]]


def rle(counts: Any, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    return {"segmentation": {"size": size, "counts": counts}}


def polygons(*found: list[float]) -> dict[str, Any]:
    return {"segmentation": found}


def sized(height: int, width: int) -> dict[str, Any]:
    return {"image": {"height": height, "width": width}}


def counted(height: int, width: int, counts: Any) -> dict[str, Any]:
    return {**sized(height, width), **rle(counts, (height, width))}


def named(name: str) -> dict[str, Any]:
    return {"image": {"file_name": name}}


BAD: dict[str, dict[str, Any]] = {
    "runs that end early": rle([4, 8]),
    "runs beyond the mask": rle([4, 8, 100]),
    "a negative run": rle([-4, 8, 20]),
    "a run beyond 32 bits": rle([2**33, 8]),
    "runs that overflow to the right sum": rle([2**31, 2**31, 24]),
    "a run beyond 64 bits": rle([2**70]),
    "no runs": rle([]),
    "packed runs that end early": rle("488"),
    "packed runs beyond the mask": rle("48l"),
    "packed runs of other characters": rle("\0\xff~~"),
    "packed runs of other letters": rle("\u20ac"),
    "a packed run without end": rle("P" * 40),
    "packed runs beyond 64 bits": rle("o" * 1000),
    "no packed runs": rle(""),
    "runs of another size": rle([4, 8, 12], (6, 4)),
    "runs of a huge image": counted(2**31, 2**31, "488"),
    "runs of a negative image": counted(-4, -6, [24]),
    "no text": rle("\ud800"),
    "a huge image": sized(10**9, 10**9),
    "an image beyond 64 bits": sized(2**40, 2**40),
    "a negative image": sized(-4, -6),
    "an image without pixels": sized(0, 0),
    "a polygon far outside": polygons([0, 0, 1e9, 0, 1e9, 1e9]),
    "a polygon on the other side": polygons([-1e9, -1e9, 1e9, 0, 3, 3]),
    "a polygon beyond numbers": polygons([0, 0, 1e300, 0, 3, 3]),
    "a polygon of 2**31 steps": {
        **sized(9000, 9000), **polygons([0.0, 0.0, 9000.0, 9000.0] * 50_000),
    },
    "no name": {**named(""), **rle([4], (9, 9))},
    "a photo above the folder": named("../photo.png"),
    "a photo elsewhere": named("/etc/hostname"),
    "a name with NUL": named("a\0b"),
    "a name of 10,000 characters": named("a" * 10_000),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of one photo, and another photo in the folder above it."""
    home = tmp_path / "coco"
    home.mkdir()
    for path in (home, tmp_path):
        Image.new("RGB", SIZE[::-1]).save(path / "photo.png")
    return home


def write(folder: Path, change: dict[str, Any]) -> Path:
    image = {"id": 1, "file_name": "photo.png", "height": 4, "width": 6}
    found = {"image_id": 1, "category_id": 7, "segmentation": TRIANGLE, "bbox": [0, 0, 3, 3]}
    content = {
        "images": [image | change.get("image", {})],
        "annotations": [found | {k: v for k, v in change.items() if k != "image"}],
        "categories": [{"id": 7, "name": "cup"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_sound_annotations_are_read(folder: Path) -> None:
    for change in ({}, rle([4, 8, 12]), rle("48<"), polygons(TRIANGLE[0], TRIANGLE[0])):
        (photo,) = read_coco(write(folder, change)).photos
        (found,) = photo.objects
        mask = coco_mask.decode(found.rle)
        assert mask.shape == SIZE
        assert mask.sum() == found.area > 0


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations_are_refused(case: str, folder: Path, figures: Figures) -> None:
    with pytest.raises(InputError) as caught:
        read_coco(write(folder, BAD[case]))
    if case != "a name of 10,000 characters":
        assert len(str(caught.value)) < 700
    figures.add(FAULT, count=1, found="refused before pycocotools sees them")


OUTLINES = st.one_of(
    st.builds(Rle, st.just(SIZE), st.lists(st.integers(-1, 30), max_size=8)),
    st.builds(Rle, st.just(SIZE), st.text(st.characters(min_codepoint=47, max_codepoint=112))),
    st.lists(st.lists(st.floats(-30, 30) | st.floats(), max_size=12), max_size=3),
)


@pytest.mark.parametrize("count", COUNTS)
def test_outlines_of_any_kind(count: int, figures: Figures) -> None:
    """Accepted outlines become masks of the image's size whose values are 0 and 1."""

    @settings(max_examples=count)
    @given(OUTLINES)
    def run(shape: Any) -> None:
        try:
            found = to_rle(shape, ImageRecord(1, SIZE[1], SIZE[0]))
        except InputError:
            return
        if found is not None:
            mask = coco_mask.decode(found)
            assert mask.shape == SIZE
            assert set(np.unique(mask)) <= {0, 1}
            assert mask.sum() == coco_mask.area(found)

    run()
    figures.add("COCO annotations: outlines of any kind", count=count, found="refused, or a mask")
