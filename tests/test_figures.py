"""README's figures against the pages and reports that they come from, and sizes that it quotes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from made_reports import latency, memory, report

from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.records import Report, Row
from samclip.benchmarks.report import write_report
from tools import figures as checked
from tools import quiet_figures

FIGURES = checked.read_figures()


def test_every_figure_of_the_readme_stands_in_its_page_with_its_command() -> None:
    assert list(checked.check_pages(FIGURES)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("52.4 %", "41 %", "README.md says '41 %', which figures.toml does not list"),
        ("1.001", "0.999", "'1.001' is listed, and README.md does not say it"),
        ("(52 MB", "(60 MB", "README.md says '60 MB'"),
        ("a merged model of", "in 0.95 s a merged model of", "README.md says '0.95 s'"),
    ],
)
def test_a_figure_that_nothing_holds_is_seen(old: str, new: str, problem: str) -> None:
    text = checked.README.read_text("utf-8")
    assert old in text
    assert any(problem in line for line in checked.check_pages(FIGURES, text.replace(old, new)))


def test_a_figure_that_its_page_words_otherwise_is_seen() -> None:
    wrong = [
        msgspec.structs.replace(FIGURES[0], cell="48.9 MB"),
        msgspec.structs.replace(FIGURES[-1], command="samclip-bench roofline my-own"),
    ]
    lines = list(checked.check_pages([*FIGURES, *wrong]))
    assert any("which docs/models/samclip-tiny.md does not have" in line for line in lines)
    assert any(
        "does not name the command 'samclip-bench roofline my-own'" in line for line in lines
    )
    assert any("has 51.9 MB; docs/models/samclip-tiny.md says '48.9 MB'" in line for line in lines)


def test_pages_say_when_where_and_with_what_they_measured(tmp_path: Path) -> None:
    assert list(checked.check_conditions()) == []
    table = "`samclip-bench latency`:\n\n| | ms |\n|---|---|\n| tiny | 9.5 ms |\n"
    page = tmp_path / "page.md"
    page.write_text(f"# Times\n{table}")
    lines = list(checked.check_conditions([page]))
    assert [line.partition(" does not say the ")[2].split(",")[0] for line in lines] == [
        *("date", "machine", "version of a package")
    ]
    page.write_text(f"# Times\nAn AMD EPYC, 1 May 2027, ONNX\nRuntime 1.31.1.\n{table}")
    assert list(checked.check_conditions([page])) == []


def names_report(value: float) -> Report:
    rows = [
        Row(model=wanted.model, measure=wanted.measure, subset=wanted.subset, value=value,
            low=None, high=None, n=191 if ">" in wanted.subset else 378, photos=42)
        for wanted in dict.fromkeys(
            f.report for f in FIGURES if f.report and f.report.benchmark == "accuracy names"
        )
        if wanted.field == "value" or wanted.subset == "all objects"
    ]  # fmt: skip
    return report("accuracy names", "samclip-tiny", rows=tuple(dict.fromkeys(rows)))


@pytest.mark.parametrize(("value", "agrees"), [(0.5236, True), (0.41, False)])
def test_reports_are_compared_with_what_is_said(
    value: float, agrees: bool, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(names_report(value), tmp_path / "names.json")
    code = checked.main(["--report", str(tmp_path / "names.json")])
    shown = capsys.readouterr()
    assert code == (0 if agrees else 1), shown.err
    assert ("'52.4 %' (0.524 in docs/models/samclip-tiny.md): DIFFERS, 0.41" in shown.out) != agrees


def test_tables_are_listed_with_their_commands() -> None:
    listed = {(page, command) for page, _, _, command in checked.list_tables()}
    names = "samclip-bench accuracy names path/to/coco --no-crops --teacher conse"
    assert ("docs/models/samclip-tiny.md", names) in listed
    assert len({page for page, _ in listed}) > 8


# ---- the commands of the first screen


def runs(monkeypatch: pytest.MonkeyPatch, *reports: Report) -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []
    waiting: Iterator[Report] = iter(reports)

    def run(arguments: tuple[str, ...], folder: object) -> Report:
        calls.append(tuple(arguments))
        return next(waiting)

    monkeypatch.setattr(quiet_figures, "run", run)
    return calls


def test_the_first_screen_is_measured_by_public_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = latency("samclip-tiny")
    cold = Timing(model="samclip-tiny", kind="process", name=quiet_figures.FIRST_MASK, state="cold",
                  samples=(0.9, 0.95, 1.2))  # fmt: skip
    kept = [t for t in timed.timings if t.name not in {quiet_figures.FIRST_MASK}]
    timed = msgspec.structs.replace(timed, timings=(*kept, cold))
    used = memory("samclip-tiny")
    use = msgspec.structs.replace(used.memory[0], stage="segment a point", peaks=(300 * 2**20,))
    used = msgspec.structs.replace(used, memory=(*used.memory, use))
    machine = msgspec.structs.replace(
        timed.machine, packages={"numpy": "2", "onnxruntime": "1.31.1"}
    )
    busy = msgspec.structs.replace(used.threads, load=(9.0, 9.0, 9.0))
    calls = runs(monkeypatch, timed, msgspec.structs.replace(used, machine=machine, threads=busy))
    assert quiet_figures.main(["--repeats", "2", "--cold", "3"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert [call[0] for call in calls] == ["latency", "memory"]
    assert "--repeats 2 --cold 3" in " ".join(calls[0])
    for text in ("950 ms (900 ms - 1.20 s, n = 3)", "300 MiB", "513 MiB", "BUSY, load 9.0",
                 "onnxruntime 1.31.1", "photo file to three answers"):  # fmt: skip
        assert text in shown


def test_the_installed_size_counts_weights_and_requirements() -> None:
    found = quiet_figures.installed_bytes()
    bundle = quiet_figures.ROOT / "samclip" / "assets" / "bundles" / "samclip-tiny"
    weights = sum(file.stat().st_size for file in bundle.iterdir())
    assert weights < found["samclip"] < 2 * weights
    assert {"numpy", "onnxruntime", "pillow"} <= set(found)
    assert "torch" not in found  # of an extra
    assert min(found.values()) > 0
