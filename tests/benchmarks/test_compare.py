"""Two reports held together: pairs of rows, their ratios, and what else differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from samclip.benchmarks.compare import (
    RowPair,
    describe_differences,
    missing,
    other_machine,
    pair_reports,
    pairs_table,
)
from samclip.benchmarks.measurements import Measurements, Timing
from samclip.benchmarks.records import Data, Report, Row, Subject
from samclip.benchmarks.report import make_report, write_report
from samclip.benchmarks.same_models import Matching, match_models
from samclip.errors import InputError

Bench = Callable[..., Any]


def timing(name: str, *samples: float, model: str = "a", part_of: str | None = None) -> Timing:
    kind = "stage" if part_of else "task"
    return Timing(model=model, kind=kind, name=name, samples=samples, part_of=part_of)


def row(value: float | None, low: float | None, high: float | None, measure: str = "mIoU") -> Row:
    return Row(
        model="a", measure=measure, subset="all", value=value, low=low, high=high, n=9, photos=3
    )


def bundle(
    name: str, digest: str, backend: str = "onnxruntime", precision: str | None = "fp32"
) -> Subject:
    return Subject(
        name=name,
        role="measured",
        manifest_sha256=digest * 8,
        backend=backend,
        precision=precision,
    )


def report(
    timings: Sequence[Timing] = (),
    rows: Sequence[Row] = (),
    models: Sequence[str] = ("a",),
    benchmark: str = "latency",
) -> Report:
    subjects = [bundle(name, name) for name in models]
    data = Data.of(Path("photos"), "photos", [1], [1])
    measured = Measurements(timings=tuple(timings))
    return make_report(benchmark, subjects, data, [], rows, seconds=1, threads=2, measured=measured)


def matched(before: Report, after: Report, *given: str) -> Matching:
    return match_models(before.subjects, after.subjects, given)


def paired(before: Report, after: Report, *given: str) -> tuple[RowPair, ...]:
    return pair_reports(before, after, matched(before, after, *given))


def with_subjects(made: Report, *subjects: Subject) -> Report:
    return msgspec.structs.replace(made, subjects=subjects)


def test_timings_are_compared_by_their_samples() -> None:
    before = report([timing("x", 1.0, 1.1, 0.9, 1.0), timing("y", 1.0, 9.0, 5.0)])
    after = report([timing("x", 2.0, 2.1, 1.9, 2.0), timing("y", 1.0, 9.0, 5.0)])
    x, y = paired(before, after)
    assert x.ratio == pytest.approx(2.0)
    assert x.low is not None
    assert 1.7 < x.low < 2.0 < (x.high or 0) < 2.4
    assert x.is_sure
    assert y.ratio == 1.0
    assert not y.is_sure


def test_one_sample_has_a_ratio_without_an_interval() -> None:
    (pair,) = paired(report([timing("x", 1.0)]), report([timing("x", 3.0)]))
    assert (pair.ratio, pair.low, pair.high, pair.is_sure) == (3.0, None, None, False)


def test_rows_without_samples_are_compared_by_their_intervals() -> None:
    before = report(rows=[row(0.5, 0.5 / 1.1, 0.5 * 1.1), row(0.2, None, None, "other")])
    after = report(rows=[row(0.6, 0.6 / 1.1, 0.6 * 1.1), row(0.2, None, None, "other")])
    pair, other = paired(before, after)
    assert pair.ratio == pytest.approx(1.2)
    half = 1.1 ** (2**0.5)  # both errors are 10 %
    assert pair.low == pytest.approx(1.2 / half)
    assert pair.high == pytest.approx(1.2 * half)
    assert (other.ratio, other.low) == (1.0, None)


def test_models_of_one_name_and_different_bundles_are_not_compared() -> None:
    """Neither the display name, nor the place in the report, nor being the only one counts."""
    before = with_subjects(report([timing("x", 1.0)]), bundle("a", "0123"))
    after = with_subjects(report([timing("x", 2.0)]), bundle("a", "4567"))
    with pytest.raises(InputError, match=r"(?s)no row in common: a of the first.*0123.*--match"):
        paired(before, after)
    (pair,) = paired(before, after, "a=a")
    assert (pair.model, pair.ratio) == ("a", 2.0)


def test_a_model_is_the_same_in_two_runs_that_call_it_otherwise() -> None:
    """A second backend in one run makes `tiny` a `tiny onnxruntime` there."""

    def run(*models: tuple[str, str]) -> Report:
        made = report(
            [timing("x", float(len(models)), model=name) for name, _ in models],
            [msgspec.structs.replace(row(0.5, None, None), model=f"{n} coarse") for n, _ in models],
        )
        return with_subjects(made, *(bundle(n, "abcd", b) for n, b in models))

    alone = run(("tiny", "onnxruntime"))
    # the OpenVINO run comes first and has the other run's display name
    both = run(("tiny", "openvino"), ("tiny onnxruntime", "onnxruntime"))
    for before, after in ((alone, both), (both, alone)):
        (pair,) = paired(before, after)
        assert pair.ratio == (2.0 if after is both else 0.5)
        assert pair.model == ("tiny onnxruntime" if after is both else "tiny")
        models = matched(before, after)
        (left,) = models.unmatched
        place = "second" if after is both else "first"
        assert left.startswith(f"tiny of the {place} report (bundle abcdabcdabcd, openvino in fp32")
        assert left.endswith("the other report ran this bundle as onnxruntime in fp32")
        assert missing(before, after, models) == ()
        compared = pair_reports(*(msgspec.structs.replace(r, timings=()) for r in (before, after)),
                                models)  # fmt: skip
        assert [pair.measure for pair in compared] == ["mIoU"]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (bundle("a", "0123"), bundle("a", "0123", precision="int8"), "as onnxruntime in int8"),
        (bundle("a", "0123"), bundle("a", "0123", "openvino"), "as openvino in fp32"),
        (bundle("a", "0123"), bundle("a", "4567"), "no bundle with this hash"),
        (bundle("a", "0123"), Subject(name="a", role="peer"), "no bundle with this hash"),
        (Subject(name="a", role="peer"), Subject(name="a", role="peer"), "holds no hash"),
    ],
)
def test_each_part_of_the_identity_counts(first: Subject, second: Subject, reason: str) -> None:
    models = match_models([first], [second])
    assert models.names == {}
    assert len(models.unmatched) == 2
    assert reason in models.unmatched[0]


def test_a_teacher_is_known_by_its_fingerprint() -> None:
    one, other = (Subject(name=n, role="teacher", fingerprint="f" * 64) for n in "ab")
    assert match_models([one], [other]).names == {"a": "b"}


def test_no_two_models_become_one() -> None:
    before, after = [bundle("a", "0123")], [bundle(n, "0123") for n in ("c", "d")]
    models = match_models(before, after)
    assert models.names == {}
    assert [line.rpartition(": ")[2] for line in models.unmatched] == [
        "the other report holds it more than once, or for another model",
        *["its report holds it more than once"] * 2,
    ]
    assert match_models(after, after).names == {}
    assert match_models(before, after, ["a=d"]).names == {"a": "d"}


def test_one_bundle_in_two_roles_is_matched_by_role() -> None:
    first = [bundle("m", "0123"), msgspec.structs.replace(bundle("s", "0123"), role="sam")]
    second = [msgspec.structs.replace(bundle("m", "0123"), role="sam"), bundle("s", "0123")]
    assert match_models(first, second).names == {"m": "s", "s": "m"}
    assert match_models(first[1:], second[1:]).names == {"s": "s"}  # the role alone does not part


@pytest.mark.parametrize("text", ["a", "a=x", "=", "c=a", "a=c=d"])
def test_a_pair_must_name_models(text: str) -> None:
    with pytest.raises(InputError, match="one of a, and one of c, d=e"):
        match_models([bundle("a", "0123")], [bundle("c", "0123"), bundle("d=e", "4567")], [text])


def test_a_given_pair_may_hold_the_sign_and_comes_once() -> None:
    before, after = [bundle("a", "0123"), bundle("b", "89")], [bundle("d=e", "4567")]
    assert match_models(before, after, ["a=d=e"]).names == {"a": "d=e"}
    with pytest.raises(InputError, match="a second time"):
        match_models(before, after, ["a=d=e", "b=d=e"])


def test_rows_of_two_models_follow_both_and_rows_of_none_need_all() -> None:
    before = [bundle("a", "01"), bundle("b", "23")]
    after = [bundle("b", "01"), bundle("a", "23")]
    models = match_models(before, after)
    assert models.renamed("a / b") == "b / a"
    assert models.renamed("SAM + CLIP / merged") == "SAM + CLIP / merged"
    fewer = match_models(before, after[:1])
    assert fewer.renamed("a") == "b"
    assert fewer.renamed("a / b") is None
    assert fewer.renamed("SAM + CLIP / merged") is None


def test_times_are_written_as_speeds_and_all_else_as_factors() -> None:
    def line(unit: Any, ratio: float, low: float, high: float) -> tuple[Any, ...]:
        pair = RowPair("a", "m", "all", unit, 1.0, ratio, ratio, low, high)
        return tuple(pairs_table([pair]).rows[0][5:])

    assert line("seconds", 0.5, 0.4, 0.8) == ("2.00x as fast", "1.250 - 2.500", "faster")
    assert line("seconds", 1.25, 1.2, 1.3) == ("0.80x as fast", "0.769 - 0.833", "slower")
    assert line("bytes", 0.5, 0.4, 0.8) == ("0.500x", "0.400 - 0.800", "less")


def test_reports_without_a_common_row_are_refused() -> None:
    before = report([timing("x", 1.0, model="a")], models=["a", "b"])
    after = report([timing("x", 1.0, model="c")], models=["c", "d"])
    with pytest.raises(InputError, match=r"no row in common: a of the first.*; d of the second"):
        paired(before, after)
    with pytest.raises(InputError, match="'latency' and 'memory'"):
        paired(before, report(benchmark="memory"))
    with pytest.raises(InputError, match="their models are the same, and no row is"):
        paired(report([timing("x", 1.0)]), report([timing("y", 1.0)]))


def test_rows_of_one_report_alone_are_named() -> None:
    before, after = report(rows=[row(1, 1, 1)]), report(rows=[row(1, 1, 1), row(1, 1, 1, "new")])
    assert missing(before, after, matched(before, after)) == ("a: new, all",)


def test_another_machine_is_told_from_other_versions() -> None:
    before = report([timing("x", 1.0)])
    assert other_machine(before, before) is None
    assert list(describe_differences(before, before, matched(before, before))) == []
    machine = msgspec.structs.replace(
        before.machine, packages={**before.machine.packages, "numpy": "0.1"}
    )
    newer = msgspec.structs.replace(before, machine=machine)
    assert other_machine(before, newer) is None
    (line,) = describe_differences(before, newer, matched(before, newer))
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
    assert "0.33x as fast" in result.stdout
    assert "3,000.00 ms" in result.stdout
    assert "slower" in result.stdout
    assert "not compared" not in result.stdout
    assert "inner" not in result.stdout
    assert "inner" in bench("compare", *files, "--stages").stdout
    assert "inner" not in bench("compare", *files, "--stages", "--only-sure").stdout


def test_the_command_lists_what_it_could_not_match(bench: Bench, tmp_path: Path) -> None:
    before = report([timing("x", 1.0), timing("x", 1.0, model="b")], models=["a", "b"])
    after = report([timing("x", 2.0), timing("x", 1.0, model="c")], models=["a", "c"])
    files = tmp_path / "a.json", tmp_path / "b.json"
    for made, file in zip((before, after), files, strict=True):
        write_report(made, file)
    result = bench("compare", *files)
    assert result.exit_code == 0
    assert "not compared: b of the first report (bundle bbbbbbbb" in result.stdout
    assert "not compared: c of the second report (bundle cccccccc" in result.stdout
    assert "not compared" not in bench("compare", *files, "--match", "b=c").stdout
    wrong = bench("compare", *files, "--match", "b=d")
    assert wrong.exit_code == 2
    assert "expected BEFORE=AFTER" in wrong.stderr


def test_a_file_that_is_no_report_is_bad_input(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    result = bench("compare", tmp_path / "x.json", tmp_path / "x.json")
    assert result.exit_code == 2
    assert "not a report" in result.stderr
