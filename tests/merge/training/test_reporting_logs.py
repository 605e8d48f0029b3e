from pathlib import Path

import pytest

from samclip.errors import TrainingError
from samclip.merge.training.step_log import StepLog, StepRecord


def record(stage: str, step: int, **terms: float) -> StepRecord:
    return StepRecord(stage, step, 0.123456789, terms, 1e-4, 2.0, 0.5)


@pytest.fixture
def log(tmp_path: Path) -> StepLog:
    log = StepLog(tmp_path / "log.csv")
    for step in range(3):
        log.add(record("first", step, clip=0.25))
    log.add(record("second", 0, sam=1.0, embed=2.0))
    return log


def places(log: StepLog) -> list[tuple[str, str]]:
    return [(row["stage"], row["step"]) for row in log.rows()]


def test_a_line_a_step_under_one_heading(log: StepLog) -> None:
    lines = log.path.read_text().splitlines()
    terms = "clip,region,sam,embed,mask,dice,label"
    assert lines[0] == f"stage,step,loss,{terms},learning_rate,gradient_norm,seconds"
    assert lines[1] == "first,0,0.123457,0.25,,,,,,,0.0001,2,0.5"
    assert lines[4] == "second,0,0.123457,,,1,2,,,,0.0001,2,0.5"
    assert log.rows()[3]["clip"] == ""


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.csv")
    assert log.rows() == []
    log.clear()


def test_what_came_after_a_state_is_dropped(log: StepLog) -> None:
    log.keep([], "first", 2)
    assert places(log) == [("first", "0"), ("first", "1")]
    log.add(record("first", 2))
    assert places(log)[-1] == ("first", "2")
    assert [path.name for path in log.path.parent.iterdir()] == ["log.csv"]


def test_whole_stages_before_a_state_are_kept(log: StepLog) -> None:
    log.keep(["first"], "second", 0)
    assert places(log) == [("first", "0"), ("first", "1"), ("first", "2")]


def test_a_finished_run_keeps_its_log(log: StepLog) -> None:
    before = log.path.read_text()
    log.keep(["first", "second"], None, 0)
    assert log.path.read_text() == before


def test_a_line_cut_off_is_no_row(log: StepLog) -> None:
    log.path.write_text(log.path.read_text()[:-12])
    assert len(log.rows()) == 3


def test_columns_of_another_version_are_left_out(log: StepLog) -> None:
    lines = log.path.read_text().splitlines()
    older = [lines[0] + ",patch", *(line + ",0" for line in lines[1:])]
    log.path.write_text("\n".join(older) + "\n")
    assert len(log.rows()) == 4
    log.keep(["first"], "second", 1)
    assert log.path.read_text().splitlines() == lines


def test_losses_that_another_version_did_not_know_are_empty(log: StepLog) -> None:
    older = log.path.read_text().replace(",mask,dice,label,", ",").replace(",,,,0.0001", ",0.0001")
    log.path.write_text(older)
    assert [row["label"] for row in log.rows()] == [""] * 4
    assert [row["seconds"] for row in log.rows()] == ["0.5"] * 4


def test_another_file_is_refused(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.csv")
    log.path.write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match="not the log of a run"):
        log.rows()
