"""Prompts that make no sense: one PromptError that says why, or a documented clamp.

The scene answers the next question as before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured_bundle import write_coloured_bundle
from fakes import MASK_SIZE, flag
from figures import Figures

import samclip
from samclip.errors import PromptError
from samclip.runtime.pixels.prompts import MAX_POINTS
from samclip.runtime.scene import Scene

HEIGHT, WIDTH = 128, 200
NAN, INFINITY = math.nan, math.inf
INSIDE = (40.0, 50.0)
BAD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a point left of the image": {"points": [(-1, 5)]},
    "a point above it": {"points": [(5, -0.001)]},
    "a point right of it": {"points": [(WIDTH + 1, 5)]},
    "a point below it": {"points": [(5, HEIGHT + 0.001)]},
    "(row, column) for (x, y)": {"points": [(100, 190)]},
    "one of many outside": {"points": [INSIDE] * 99 + [(5, 1e9)]},
    "a point at the end of float64": {"points": [(1.7e308, 5)]},
    "a NaN": {"points": [(NAN, 5)]},
    "a NaN among 1,000": {"points": [INSIDE] * 999 + [(5, NAN)]},
    "infinity": {"points": [(5, INFINITY)]},
    "minus infinity": {"points": [(-INFINITY, 5)]},
    "no point": {"points": np.zeros((0, 2))},
    "no point in one of two prompts": {"points": [[INSIDE], np.zeros((0, 2))]},
    "a lone pair": {"points": INSIDE},
    "three coordinates": {"points": [(1, 2, 3)]},
    "text": {"points": "40, 50"},
    "nothing for a number": {"points": [(None, 5)]},
    "complex numbers": {"points": [(1j, 5)]},
    "dates": {"points": np.zeros((1, 2), "M8[s]")},
    "too many points": {"points": [INSIDE] * (MAX_POINTS + 1)},
    "more labels than points": {"points": [INSIDE], "labels": [1, 0]},
    "fewer labels": {"points": [INSIDE, INSIDE], "labels": [1]},
    "labels alone": {"labels": [1]},
    "a label of 2": {"points": [INSIDE], "labels": [2]},
    "a label of -1": {"points": [INSIDE], "labels": [-1]},
    "half a label": {"points": [INSIDE], "labels": [0.5]},
    "a NaN as label": {"points": [INSIDE], "labels": [NAN]},
    "an inverted box": {"boxes": (90, 10, 20, 100)},
    "a box upside down": {"boxes": (20, 100, 90, 10)},
    "a box of no width": {"boxes": (20, 10, 20, 100)},
    "a box of no height": {"boxes": (20, 10, 90, 10)},
    "a box of zeros": {"boxes": (0, 0, 0, 0)},
    "a box outside": {"boxes": (WIDTH + 1, 5, WIDTH + 9, 9)},
    "a box that only touches": {"boxes": (WIDTH, 5, WIDTH + 9, 9)},
    "a NaN in a box": {"boxes": (20, 10, NAN, 100)},
    "infinity in a box": {"boxes": (-INFINITY, -INFINITY, INFINITY, INFINITY)},
    "one box of 100 inverted": {"boxes": [(1, 1, 9, 9)] * 99 + [(9, 9, 1, 1)]},
    "three numbers for a box": {"boxes": (1, 2, 3)},
    "two boxes, one prompt": {"points": [[INSIDE]], "boxes": [(1, 1, 9, 9)] * 2},
    "a mask of another size": {"mask": np.zeros((4, 4))},
    "a mask of NaN": {"mask": np.full((MASK_SIZE, MASK_SIZE), NAN)},
    "a mask of infinity": {"mask": np.full((MASK_SIZE, MASK_SIZE), INFINITY)},
    "a mask of booleans": {"mask": np.ones((MASK_SIZE, MASK_SIZE), bool)},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    bundle = write_coloured_bundle(tmp_path_factory.mktemp("prompts") / "bundle")
    with samclip.load(bundle, "onnxruntime", threads=1) as model, model.encode(flag()) as encoded:
        assert encoded.size == (HEIGHT, WIDTH)
        yield encoded


@pytest.mark.parametrize("prompts", BAD.values(), ids=BAD)
def test_bad_prompts(prompts: dict[str, Any], scene: Scene, figures: Figures) -> None:
    before = scene.segment([INSIDE])
    with pytest.raises(PromptError) as caught:
        scene.segment(**prompts)
    message = str(caught.value)
    assert re.search("points?|labels|box|mask|prompt", message), message
    assert len(message) < 300
    np.testing.assert_array_equal(scene.segment([INSIDE]).masks, before.masks)
    figures.add("prompts: bad", count=1, found="PromptError, the next answer is as before")


CLAMPED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "past the left": ((-50, 10, 90, 100), (0, 10, 90, 100)),
    "past the right": ((20, 10, 9e9, 100), (20, 10, WIDTH, 100)),
    "past the top": ((20, -1e300, 90, 100), (20, 0, 90, 100)),
    "past the bottom": ((20, 10, 90, HEIGHT + 0.5), (20, 10, 90, HEIGHT)),
    "around the image": ((-9, -9, 999, 999), (0, 0, WIDTH, HEIGHT)),
}


@pytest.mark.parametrize(("given", "kept"), CLAMPED.values(), ids=CLAMPED)
def test_boxes_partly_outside_are_clamped(
    given: tuple[float, ...], kept: tuple[float, ...], scene: Scene, figures: Figures
) -> None:
    got, expected = scene.segment(boxes=given), scene.segment(boxes=kept)
    np.testing.assert_array_equal(got.masks, expected.masks)
    figures.add("prompts: boxes partly outside", count=1, found="clamped, as documented")


ODD: dict[str, tuple[dict[str, Any], int]] = {  # with the number of masks
    "1,000 points in one prompt": ({"points": [INSIDE] * 1000}, 1),
    "1,000 prompts": ({"points": [[INSIDE]] * 1000}, 1000),
    "1,000 boxes": ({"boxes": [(1, 1, 9, 9)] * 1000}, 1000),
    "no boxes": ({"boxes": []}, 0),
    "no boxes of a detector": ({"boxes": np.zeros((0, 4))}, 0),
    "the corners": ({"points": [(0, 0), (WIDTH, HEIGHT)]}, 1),
    "background alone": ({"points": [INSIDE], "labels": [0]}, 1),
    "a box of a thousandth": ({"boxes": (20, 20, 20.001, 20.001)}, 1),
    "prompts of 1 and 3 points": ({"points": [[INSIDE], [INSIDE] * 3]}, 2),
    "long doubles": ({"points": np.asarray([INSIDE], np.longdouble)}, 1),
    "huge logits": ({"mask": np.full((MASK_SIZE, MASK_SIZE), 1e300)}, 1),
}


@pytest.mark.parametrize(("prompts", "count"), ODD.values(), ids=ODD)
def test_odd_but_valid_prompts(
    prompts: dict[str, Any], count: int, scene: Scene, figures: Figures
) -> None:
    found = scene.segment(**prompts)
    assert found.masks.shape == (count, HEIGHT, WIDTH)
    assert np.isfinite(found.scores).all()
    figures.add("prompts: odd but valid", count=1, found="masks with finite scores")


SMALL_IMAGE = {  # cases that are valid for a larger photo
    "a point right of it",
    "a point below it",
    "(row, column) for (x, y)",
    "a box outside",
    "a box that only touches",
}


@pytest.mark.slow
def test_the_packaged_model_refuses_and_answers_as_before(
    photo_path: Path, figures: Figures
) -> None:
    """The real decoder of the packaged bundle."""
    with samclip.load("samclip-tiny", "onnxruntime", threads=2) as model:
        scene = model.encode(photo_path)
        before = scene.segment([INSIDE])
        height, width = scene.size
        bad = [{"points": [(width + 1, 5)]}, {"points": [(5, height + 1)]}]
        bad += [prompts for name, prompts in BAD.items() if not _depends_on_size(name, prompts)]
        for prompts in bad:
            with pytest.raises(PromptError):
                scene.segment(**prompts)
        figures.add("prompts: bad, samclip-tiny", count=len(bad), found="PromptError")
        assert np.isfinite(scene.segment([INSIDE] * 1000).scores).all()
        np.testing.assert_array_equal(scene.segment([INSIDE]).masks, before.masks)


def _depends_on_size(name: str, prompts: dict[str, Any]) -> bool:
    return "mask" in prompts or name in SMALL_IMAGE
