"""`samclip demo`: one picture of three tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from cli_fakes import FakeModel, Run
from PIL import Image

from samclip.cli.demo import COMMON_NAMES, PHOTO, PHOTO_BOXES, PHOTO_NAMES
from samclip.runtime.assets import packaged_photos


def test_without_an_image_the_packaged_photo_is_shown(run: Run, model: FakeModel) -> None:
    result = run("demo")
    assert result.exit_code == 0, result.output
    tasks = dict(model.calls)
    assert set(tasks) == {"classify", "segment", "semantic"}
    assert tasks["classify"]["names"] == list(PHOTO_NAMES)
    np.testing.assert_array_equal(tasks["segment"]["boxes"], PHOTO_BOXES)
    with Image.open("coffee.demo.png") as picture:
        assert picture.width == 1200
    for part in ("classify", "segment", "semantic", "picture: coffee.demo.png"):
        assert part in result.stdout


def test_its_boxes_lie_inside_the_packaged_photo() -> None:
    with Image.open(packaged_photos() / PHOTO) as photo:
        width, height = photo.size
    for x0, y0, x1, y1 in PHOTO_BOXES:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


def test_an_image_is_searched_for_large_objects(run: Run, model: FakeModel, image: Path) -> None:
    assert run("demo", image, "--output", "out.jpg").exit_code == 0
    tasks = [task for task, _ in model.calls]
    assert tasks == ["classify", "everything", "semantic"]
    assert model.calls[0][1]["names"] == list(COMMON_NAMES)
    assert Path("out.jpg").is_file()


def test_names_and_boxes_are_passed_on(run: Run, model: FakeModel, image: Path) -> None:
    where = ["--backend", "openvino", "--engine-precision", "bf16"]
    result = run("demo", image, "--names", "cup,bus", "--box", "1,2,9,9", "--json", *where)
    assert result.exit_code == 0, result.output
    assert model.loaded["engine_precision"] == "bf16"
    record = json.loads(result.stdout)
    assert record["task"] == "demo"
    assert record["classify"]["names"] == ["bus", "cup"]
    assert {mask["name"] for mask in record["segment"]["masks"]} == {"cup"}
    assert record["semantic"]["refined"] is True
    assert record["picture"] is None
    np.testing.assert_array_equal(model.calls[1][1]["boxes"], [(1, 2, 9, 9)])


def test_an_untrained_head_is_reported(run: Run, model: FakeModel, image: Path) -> None:
    model.trained = False
    result = run("demo", image, "--box", "1,2,9,9")
    assert "MEANINGLESS" in result.stderr
