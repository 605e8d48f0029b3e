"""`samclip-bench shapes`: a bundle's further shapes against its first one; the model is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import Made, rectangle, stripes, write_coco

from samclip.benchmarks.accuracy.shapes import verdicts
from samclip.benchmarks.records import Row

Bench = Callable[..., Any]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A square photo, a wide one that fills 4:3, and a wider one that does not."""
    photos = {}
    for name, height in (("square", 256), ("full", 192), ("wide", 160)):
        objects = [
            Made("red", rectangle(0, 0, 64, 64)[:height]),
            Made("green", rectangle(160, 96, 224, height)[:height]),
        ]
        photos[f"{name}.png"] = (np.ascontiguousarray(stripes(0, 2)[:height]), objects)
    return write_coco(tmp_path / "coco", photos)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def test_masks_names_and_speed(bench: Bench, coco: Path, loads: list, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = bench("shapes", coco, "-b", "shapes", "--repeats", "3", "--json", file)
    assert result.exit_code == 0, result.stderr
    report = read(file)
    assert [subject["name"] for subject in report["subjects"]] == ["fake", "fake 1:1"]
    assert report["data"]["photos"] == 2  # the square one is the same on both
    rows = {(row["model"], row["measure"], row["subset"]): row for row in report["rows"]}
    for measure in ("box mIoU", "point mIoU", "name top-1"):
        values = [rows[model, measure, "all objects"] for model in ("fake", "fake 1:1")]
        difference = rows["fake - fake 1:1", measure, "all objects"]
        assert difference["unit"] == "difference"
        assert difference["value"] == pytest.approx(values[0]["value"] - values[1]["value"])
        assert (difference["n"], difference["photos"]) == (4, 2)
    parts = {
        subset: row["n"] for (_, measure, subset), row in rows.items() if measure == "box mIoU"
    }
    assert parts == {
        **{"all objects": 4, "on 256 x 192": 4, "photos that fill their shape": 2},
        **{"objects at the padding": 2, "other objects": 2},
    }
    for line in (
        "box mIoU: +0.0001 [+0.0000 to +0.0002] on 2 photos: no loss above 0.005",
        "point mIoU, best of three: +0.0000",
        "name top-1: +0.0000 [+0.0000 to +0.0000]",
    ):
        assert line in result.stdout
    timed = {timing["name"]: len(timing["samples"]) for timing in report["timings"]}
    assert timed == {
        f"{what}, {size}": 3
        for what in ("encoder", "encode and a box")
        for size in ("256 x 192", "192 x 256")
    }
    ratio = rows["fake / fake 1:1", "stage: encoder, 256 x 192", "warm"]
    assert ratio["unit"] == "ratio" and ratio["n"] == 3


def test_speed_alone_and_masks_alone(bench: Bench, coco: Path, loads: list, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = bench("shapes", "-b", "shapes", "--repeats", "2", "--threads", "1", "--json", file)
    assert result.exit_code == 0, result.stderr
    assert all(row["measure"].startswith(("stage", "pipeline")) for row in read(file)["rows"])
    assert [call["threads"] for call in loads] == [1, 1]
    file.unlink()
    result = bench("shapes", coco, "-b", "shapes untrained", "--repeats", "0", "--json", file)
    assert result.exit_code == 0, result.stderr
    assert "never trained" in result.stderr
    assert {row["measure"] for row in read(file)["rows"]} >= {"box mIoU", "point mIoU"}
    assert not any(row["measure"] == "name top-1" for row in read(file)["rows"])


def test_what_cannot_be_compared_is_refused(
    bench: Bench, coco: Path, loads: list, tmp_path: Path
) -> None:
    squares = write_coco(
        tmp_path / "squares", {"a.png": (stripes(0), [Made("red", rectangle(0, 0, 64, 64))])}
    )
    for arguments, reason in (
        ((coco, "-b", "x"), "one shape of input, 256 x 256"),
        (("-b", "shapes", "--repeats", "0"), "nothing to measure"),
        ((squares, "-b", "shapes", "--repeats", "0"), "have the first shape"),
        (("-b", "shapes", "--cpu-time"), "computes elsewhere"),
    ):
        result = bench("shapes", *arguments)
        assert result.exit_code == 2, arguments
        assert reason in " ".join(result.stderr.split())


def test_other_benchmarks_keep_to_shapes(bench: Bench, coco: Path, loads: list) -> None:
    result = bench("accuracy", "instances", coco, "-b", "shapes", "--aspects", "4:3")
    assert result.exit_code == 0, result.stderr
    assert loads[0]["aspects"] == ("4:3",)


@pytest.mark.parametrize(
    ("value", "low", "holds", "meaning"),
    [
        (-0.001, -0.004, True, "no loss above"),
        (-0.001, -0.006, False, "not excluded"),
        (-0.006, -0.009, False, ": a loss above"),
        (0.02, 0.01, True, "no loss above"),
    ],
)
def test_a_verdict_goes_by_the_interval(
    value: float, low: float, holds: bool, meaning: str
) -> None:
    place = {"model": "a - b", "measure": "box mIoU", "subset": "all objects"}
    row = Row(**place, value=value, low=low, high=0.03, n=9, photos=3, unit="difference")
    other = Row(**place, value=value, low=low, high=0.03, n=9, photos=3)
    ((line, found),) = verdicts([other, row])
    assert found is holds
    assert meaning in line
