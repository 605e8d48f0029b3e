from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_model
from made_data import Made, disc, stripes, write_coco

from samclip.benchmarks.accuracy.everything import evaluate_everything
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.scores import Candidate

# The fake model answers a point with discs, of which one of radius 24 passes the filters. Points
# lie 16 pixels apart, those of the first pass 32: a point amid four of these is covered by all of
# them, any other one by two at most.
LEFT_OUT = 7 * 7 / 16**2


def test_figures_by_hand(tmp_path: Path) -> None:
    first, amid, nowhere = disc(56, 56, 24), disc(40, 40, 24), disc(100, 50, 6)
    objects = [Made("red", first), Made("red", amid), Made("red", nowhere)]
    photos = {f"{name}.png": (stripes(0, 1), objects) for name in "ab"}
    read = read_coco(write_coco(tmp_path, photos)).photos
    rows = evaluate_everything(Candidate("fake", fake_model()), read, 16, [4])
    found = {(row.model, row.measure, row.subset): row for row in rows}
    values = {place: row.value for place, row in found.items()}

    everywhere, share = "all objects", "objects found"
    assert values["16 x 16 points", share, everywhere] == pytest.approx(2 / 3)
    assert values["adaptive", share, everywhere] == pytest.approx(1 / 3)
    assert values["adaptive / 16 x 16 points", share, everywhere] == pytest.approx(1 / 2)
    assert values["16 x 16 points", share, "small objects"] == 0
    assert found["adaptive", share, everywhere].n == 6
    best = values["16 x 16 points", "best mask mIoU", everywhere]
    assert 0.66 < best < 0.75  # two discs up to their rough edges, and a small one in a large mask

    again = "masks of the whole grid found"
    assert values["adaptive", again, everywhere] == pytest.approx(1 - LEFT_OUT)
    assert ("16 x 16 points", again, everywhere) not in found
    assert found["adaptive", again, everywhere].n == 2 * 16**2

    tried = "points tried"
    assert values["adaptive", tried, "all photos"] == pytest.approx(1 - LEFT_OUT)
    assert values["16 x 16 points", tried, "all photos"] == 1
    assert values["4 x 4 points", tried, "all photos"] == 1 / 16
    for measure in ("everything", "everything, processor time"):
        row = found["adaptive", measure, "all photos"]
        assert (row.unit, row.n) == ("seconds", 2) and row.value is not None and row.value > 0
        assert found["adaptive / 4 x 4 points", measure, "all photos"].unit == "ratio"
