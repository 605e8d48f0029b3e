import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samclip.errors import TrainingError
from samclip.merge.training.curves import Line, draw_curves, read_curves
from samclip.merge.training.evaluation import Evaluation, add_record, read_records
from samclip.merge.training.step_log import StepLog, StepRecord

STAGES = ("stitch", "first", "second", "third")


def evaluation(stage: str, step: int | None, score: float = 0.5) -> Evaluation:
    return Evaluation(
        stage=stage,
        step=step,
        score=score,
        mask_iou=0.6,
        box_iou=0.7,
        point_iou=0.5,
        region_names=0.4,
        image_names=0.3,
        image_names_top5=0.6,
        photos=4,
        regions=9,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three steps of `first`, two of `second`; `stitch` has none, `third` has not begun."""
    log = StepLog(tmp_path / "log.csv")
    for step in range(3):
        log.add(StepRecord("first", step, 1.0, {"clip": 3.0 - step}, 1e-3, 1.0, 0.1))
    for step in range(2):
        terms = {"clip": 0.5, "sam": 0.0}
        log.add(StepRecord("second", step, 1.0, terms, 1e-3, 1.0, 0.1))
    for record in (
        evaluation("stitch", None, 0.1),
        evaluation("first", None, 0.3),
        evaluation("first", 2, 0.2),
        evaluation("forgotten", None),
    ):
        add_record(tmp_path / "evaluation.json", record)
    return tmp_path


def test_stages_follow_each_other(folder: Path) -> None:
    curves = read_curves(
        StepLog(folder / "log.csv").rows(), read_records(folder / "evaluation.json"), STAGES
    )
    assert curves.stages == {"stitch": 0, "first": 0, "second": 3}
    assert list(curves.losses) == ["clip", "sam"]
    first, second = curves.losses["clip"]
    assert (first.x.tolist(), first.y.tolist()) == ([0, 1, 2], [3, 2, 1])
    assert (second.x.tolist(), second.y.tolist()) == ([3, 4], [0.5, 0.5])
    assert curves.scores["score"] == [(0, 0.1), (2, 0.2), (3, 0.3)]
    assert curves.scores["mask IoU"] == [(0, 0.6), (2, 0.6), (3, 0.6)]


def test_nothing_yet_is_nothing_to_draw() -> None:
    curves = read_curves([], [], STAGES)
    assert (curves.stages, curves.losses, curves.scores) == ({}, {}, {})


def test_the_running_mean_is_over_what_there_is() -> None:
    line = Line(np.arange(80.0), np.where(np.arange(80) % 3 == 0, 3.0, 0.0))
    assert line.smooth()[1:-1] == pytest.approx(np.ones(78))
    assert line.smooth()[[0, -1]] == pytest.approx([1.5, 1.5])  # of two values: 3, 0 and 3, 0
    short = Line(np.arange(3.0), np.array([1.0, 5.0, 2.0]))
    assert short.smooth() == pytest.approx(short.y)


def test_a_picture_is_drawn(folder: Path) -> None:
    path = draw_curves(folder, [*STAGES[:-1], "not $ begun"])
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[1] == 9 * 120
    assert np.ptp(picture) > 200  # something is drawn
    assert {file.name for file in folder.iterdir()} == {"log.csv", "evaluation.json", "curves.png"}


def test_a_run_of_stitches_alone_is_drawn(folder: Path) -> None:
    (folder / "log.csv").unlink()
    assert draw_curves(folder, STAGES).exists()
    (folder / "evaluation.json").unlink()
    assert draw_curves(folder, STAGES).exists()


def test_without_matplotlib_the_error_has_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TrainingError, match="pip install matplotlib"):
        draw_curves(folder, STAGES)
