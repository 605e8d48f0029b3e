"""The pace of a job is counted after its first rows, and given as a ratio."""

from __future__ import annotations

from pathlib import Path

import pytest
from colour_files import write_colour
from coloured_bundle import write_coloured_bundle
from rich.console import Console

from samclip.batch.job import InProcess, Job
from samclip.batch.questions import Question
from samclip.batch.sources import list_items
from tools.batch_pace import Timed, make_rows, measure

pytest.importorskip("pyarrow", reason="needs samclip[batch]")


def test_the_pace_leaves_out_what_comes_before_the_first_rows() -> None:
    timed = Timed(InProcess(), [(100.0, 4), (101.0, 4), (104.0, 4)])
    assert timed.pace == 2.0


def test_a_job_is_measured_and_its_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_coloured_bundle(tmp_path / "bundle")
    for number in range(4):
        write_colour(tmp_path / "photos" / f"{number}.png", "red")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    job = Job(Question(), {"name_or_path": bundle, "backend": "onnxruntime"})
    pace, seconds = measure(job, list_items([tmp_path / "photos"]), InProcess())
    assert pace > 0 < seconds
    assert not list((tmp_path / "temporary").iterdir())


def test_ratios_are_of_medians() -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(make_rows({"one": [(2.0, 9), (4.0, 9), (3.0, 9)], "two": [(4.5, 8)]}, "one"))
    assert "1.50" in shown.get()
    assert "3.00" in shown.get()
