"""What notebooks, viewers and files get of answers and scenes."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import fake_model, flag
from PIL import Image, ImageShow

from samclip.errors import CapabilityError, ImageError, InputError, WriteError
from samclip.runtime.results.viewing import NOTEBOOK_SIDE, Viewable

ALL = ["red", "green", "blue"]
BOXES = [(5, 5, 50, 120), (70, 5, 130, 120), (150, 5, 195, 120)]


def answers() -> dict[str, Any]:
    scene = fake_model().encode(flag())
    return {
        "scene": scene,
        "classification": scene.classify(ALL),
        "masks": scene.segment(boxes=BOXES),
        "named": scene.segment(boxes=BOXES, names=ALL),
        "everything": scene.everything(points_per_side=2, stability_score_thresh=0.5),
        "map": scene.semantic(ALL),
    }


def test_reprs_are_one_short_line() -> None:
    assert {name: repr(one) for name, one in answers().items()} == {
        "scene": "Scene(200x128)",
        "classification": "Classification(3 names: red 34%, green 33%, blue 33%)",
        "masks": "Masks(3 masks of 200x128)",
        "named": "Masks(3 masks of 200x128: red, green, blue)",
        "everything": "AutoMasks(4 masks of 200x128)",
        "map": "SemanticMap(200x128: green 37%, red 32%, blue 31%)",
    }
    hostile = fake_model().encode(flag()).segment(boxes=BOXES)
    named = [f"<b>\x1b[2J{'x' * 500}", "b\nc", "d"]
    text = repr(with_names(hostile, named))
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 140


def with_names(masks: Any, names: list[str]) -> Any:
    return replace(masks, vocabulary=tuple(names), class_ids=np.arange(3))


@pytest.mark.parametrize("name", answers())
def test_notebooks_get_a_picture_in_both_forms(name: str) -> None:
    one = answers()[name]
    assert isinstance(one, Viewable)
    with Image.open(io.BytesIO(one._repr_png_())) as picture:
        assert picture.format == "PNG"
        assert picture.size >= (200, 128)
        size = picture.size
    page = one._repr_html_()
    found = re.search(r"data:image/jpeg;base64,([\w+/=]+)", page)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        assert picture.size == size
    assert repr(one).split("(")[0] in page


def test_names_in_a_page_are_text() -> None:
    masks = with_names(fake_model().encode(flag()).segment(boxes=BOXES), ["<script>", '"', "&"])
    page = masks._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_large_picture_is_scaled_down_for_a_notebook() -> None:
    scene = fake_model().encode(np.zeros((20, 4000, 3), np.uint8))
    with Image.open(io.BytesIO(scene._repr_png_())) as picture:
        assert picture.size == (NOTEBOOK_SIDE, 6)


@pytest.mark.parametrize("name", answers())
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_saved_picture_is_rgb(name: str, suffix: str, tmp_path: Path) -> None:
    one = answers()[name]
    expected = one.image if name == "scene" else one.draw(legend=True)
    path = one.save(tmp_path / f"out.{suffix}")
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        apart = np.abs(np.asarray(picture).astype(int) - expected).mean()
    swapped = np.abs(expected[..., ::-1].astype(int) - expected).mean()
    assert apart < 8  # of 255: what JPEG and WebP lose
    assert swapped > 16  # what BGR would be off
    assert list(tmp_path.iterdir()) == [path]


def test_options_of_draw_reach_the_picture(tmp_path: Path) -> None:
    masks = answers()["named"]

    def saved(**options: Any) -> np.ndarray:
        return np.asarray(Image.open(masks.save(tmp_path / "a.png", **options)))

    assert saved(legend=False).shape == (128, 200, 3)
    assert saved().shape[0] > saved(top=1).shape[0] > 128  # fewer names in the legend
    assert (saved(captions="none") != saved()).any()
    np.testing.assert_array_equal(masks.draw(), saved(legend=False))


def test_what_cannot_be_saved_is_a_typed_error(tmp_path: Path) -> None:
    one = answers()
    with pytest.raises(ImageError, match=r"\.webp"):
        one["masks"].save(tmp_path / "out.gif")
    with pytest.raises(WriteError):
        one["masks"].save(tmp_path / "absent" / "out.png")
    with pytest.raises(InputError, match="captions must be"):
        one["masks"].save(tmp_path / "out.png", captions="some")
    with pytest.raises(InputError, match="without options"):
        one["scene"].save(tmp_path / "out.png", top=3)
    assert list(tmp_path.iterdir()) == []


def test_show_uses_the_notebook_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    display = SimpleNamespace(display=lambda data, raw: shown.append((data, raw)))
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    answers()["masks"].show()
    ((data, raw),) = shown
    assert raw is True
    assert data["image/png"].startswith(b"\x89PNG")


def test_show_uses_the_viewer_and_says_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    one = answers()["named"]
    with pytest.raises(CapabilityError, match=r"no display.*save\('picture\.png'\)"):
        one.show()
    monkeypatch.setenv("DISPLAY", ":0")
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(
        ImageShow, "show", lambda image: shown.append(image.size) or bool(shown[1:])
    )
    with pytest.raises(CapabilityError, match="found no image viewer"):
        one.show()
    one.show(legend=False)
    assert shown[1] == (200, 128)
