"""Two reports held together: pairs of rows, their ratios, and what else differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samclip.benchmarks.compare import describe_differences, missing, other_machine, pair_reports
from samclip.benchmarks.measurements import Measurements, Timing
from samclip.benchmarks.records import Data, Report, Row, Subject
from samclip.benchmarks.report import make_report, write_report
from samclip.benchmarks.same_models import match_models
from samclip.errors import InputError

Bench = Callable[..., Any]


def timing(name: str, *samples: float, model: str = "a", part_of: str | None = None) -> Timing:
    kind = "stage" if part_of else "task"
    return Timing(model=model, kind=kind, name=name, samples=samples, part_of=part_of)


def row(value: float | None, low: float | None, high: float | None, measure: str = "mIoU") -> Row:
    return Row(
        model="a", measure=measure, subset="all", value=value, low=low, high=high, n=9, photos=3
    )


def report(
    timings: Sequence[Timing] = (),
    rows: Sequence[Row] = (),
    models: Sequence[str] = ("a",),
    benchmark: str = "latency",
) -> Report:
    subjects = [Subject(name=name, role="measured") for name in models]
    data = Data.of(Path("photos"), "photos", [1], [1])
    measured = Measurements(timings=tuple(timings))
    return make_report(benchmark, subjects, data, [], rows, seconds=1, threads=2, measured=measured)


def test_timings_are_compared_by_their_samples() -> None:
    before = report([timing("x", 1.0, 1.1, 0.9, 1.0), timing("y", 1.0, 9.0, 5.0)])
    after = report([timing("x", 2.0, 2.1, 1.9, 2.0), timing("y", 1.0, 9.0, 5.0)])
    x, y = pair_reports(before, after)
    assert x.ratio == pytest.approx(2.0)
    assert x.low is not None
    assert 1.7 < x.low < 2.0 < (x.high or 0) < 2.4
    assert x.is_sure
    assert y.ratio == 1.0
    assert not y.is_sure


def test_one_sample_has_a_ratio_without_an_interval() -> None:
    (pair,) = pair_reports(report([timing("x", 1.0)]), report([timing("x", 3.0)]))
    assert (pair.ratio, pair.low, pair.high, pair.is_sure) == (3.0, None, None, False)


def test_rows_without_samples_are_compared_by_their_intervals() -> None:
    before = report(rows=[row(0.5, 0.5 / 1.1, 0.5 * 1.1), row(0.2, None, None, "other")])
    after = report(rows=[row(0.6, 0.6 / 1.1, 0.6 * 1.1), row(0.2, None, None, "other")])
    pair, other = pair_reports(before, after)
    assert pair.ratio == pytest.approx(1.2)
    half = 1.1 ** (2**0.5)  # both errors are 10 %
    assert pair.low == pytest.approx(1.2 / half)
    assert pair.high == pytest.approx(1.2 * half)
    assert (other.ratio, other.low) == (1.0, None)


def test_the_only_models_are_paired_whatever_their_names() -> None:
    before = report([timing("x", 1.0, model="old")], models=["old"])
    after = report([timing("x", 2.0, model="new")], models=["new"])
    (pair,) = pair_reports(before, after)
    assert (pair.model, pair.ratio) == ("new", 2.0)


def test_a_model_is_the_same_in_two_runs_that_call_it_otherwise() -> None:
    """A second backend in one run makes `tiny` a `tiny onnxruntime` there."""

    def run(*models: tuple[str, str]) -> Report:
        made = report(
            [timing("x", float(len(models)), model=name) for name, _ in models],
            [msgspec.structs.replace(row(0.5, None, None), model=f"{n} coarse") for n, _ in models],
            [name for name, _ in models],
        )
        subjects = tuple(
            Subject(name=n, role="measured", manifest_sha256="ab", backend=b, precision="fp32")
            for n, b in models
        )
        return msgspec.structs.replace(made, subjects=subjects)

    alone = run(("tiny", "onnxruntime"))
    both = run(("tiny onnxruntime", "onnxruntime"), ("tiny openvino", "openvino"))
    for before, after in ((alone, both), (both, alone)):
        (pair,) = pair_reports(before, after)
        assert pair.ratio == (2.0 if after is both else 0.5)
        assert pair.model == ("tiny onnxruntime" if after is both else "tiny")
        assert all("openvino" in name for name in missing(before, after))


def test_no_two_models_become_one() -> None:
    before = [Subject(name="a", role="", manifest_sha256="1"), Subject(name="b", role="")]
    after = [Subject(name=n, role="", manifest_sha256="1") for n in ("c", "d")]
    assert match_models(before, after) == {}
    assert match_models(after, [*after, *before]) == {"c": "c", "d": "d"}


def test_reports_without_a_common_row_are_refused() -> None:
    before = report([timing("x", 1.0, model="a")], models=["a", "b"])
    after = report([timing("x", 1.0, model="c")], models=["c", "d"])
    with pytest.raises(InputError, match=r"no row in common.*a, b.*c, d"):
        pair_reports(before, after)
    with pytest.raises(InputError, match="'latency' and 'memory'"):
        pair_reports(before, report(benchmark="memory"))


def test_rows_of_one_report_alone_are_named() -> None:
    before, after = report(rows=[row(1, 1, 1)]), report(rows=[row(1, 1, 1), row(1, 1, 1, "new")])
    assert missing(before, after) == ("a: new, all",)


def test_another_machine_is_told_from_other_versions() -> None:
    before = report([timing("x", 1.0)])
    assert other_machine(before, before) is None
    assert list(describe_differences(before, before)) == []
    machine = msgspec.structs.replace(
        before.machine, packages={**before.machine.packages, "numpy": "0.1"}
    )
    newer = msgspec.structs.replace(before, machine=machine)
    assert other_machine(before, newer) is None
    (line,) = describe_differences(before, newer)
    assert line.startswith("numpy: ")
    other = msgspec.structs.replace(before.machine, cpu="Another CPU")
    warning = other_machine(before, msgspec.structs.replace(before, machine=other))
    assert warning is not None
    assert "Another CPU" in warning


def test_the_command_is_loud_about_another_machine_and_exits_with_0(
    bench: Bench, tmp_path: Path
) -> None:
    before = report([timing("x", 1.0, 1.0), timing("inner", 1.0, 1.0, part_of="x")])
    machine = msgspec.structs.replace(before.machine, cpu="Another CPU")
    after = report([timing("x", 3.0, 3.0), timing("inner", 1.0, 1.0, part_of="x")])
    files = tmp_path / "a.json", tmp_path / "b.json"
    write_report(before, files[0])
    write_report(msgspec.structs.replace(after, machine=machine), files[1])
    result = bench("compare", *files)
    assert result.exit_code == 0
    assert "DIFFERENT MACHINES" in result.stderr
    assert "Another CPU" in result.stderr
    assert "3.000 x" in result.stdout
    assert "3,000.00 ms" in result.stdout
    assert "more" in result.stdout
    assert "inner" not in result.stdout
    assert "inner" in bench("compare", *files, "--stages").stdout
    assert "inner" not in bench("compare", *files, "--stages", "--only-sure").stdout


def test_a_file_that_is_no_report_is_bad_input(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    result = bench("compare", tmp_path / "x.json", tmp_path / "x.json")
    assert result.exit_code == 2
    assert "not a report" in result.stderr
