from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest

from samclip.benchmarks.measurements import (
    ClockRange,
    Conditions,
    Energy,
    Measurements,
    MemoryUse,
    RunSettings,
    Timing,
)
from samclip.benchmarks.records import Data, Report, Row, Subject
from samclip.benchmarks.report import (
    check_writable,
    make_report,
    read_report,
    write_report,
    write_whole,
)
from samclip.benchmarks.rows import make_row, rows_table
from samclip.benchmarks.statistics import Estimate
from samclip.benchmarks.tables import show_table
from samclip.errors import InputError

ESTIMATE = Estimate(0.5, 0.25, 0.75, 12, 3)


def make(rows: list[Row]) -> Report:
    data = Data.of(Path("photos"), "COCO", [1, 2], [1, 2, 3], {"crowds": 4})
    subject = Subject(name="a", role="measured")
    return make_report("test", [subject], data, ["how"], rows, seconds=1.23, threads=1)


def test_a_report_says_all_that_is_needed_to_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/bin/samclip-bench", "accuracy", "my folder", "--limit", "3"]
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    report = make([make_row("a", "mIoU", "all", ESTIMATE)])
    write_report(report, tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_bytes())
    assert record["command"] == "samclip-bench accuracy 'my folder' --limit 3"
    assert record["date"].endswith("+00:00")
    assert record["machine"]["packages"]["onnxruntime"]
    assert record["machine"]["logical_cores"] >= 1
    assert record["threads"]["asked"] == record["threads"]["engine"] == 1
    assert record["threads"]["environment"]["OMP_NUM_THREADS"] == "1"
    assert record["data"] == {
        "path": "photos",
        "layout": "COCO",
        "photos": 2,
        "photos_there": 3,
        "left_out": {"crowds": 4},
    }
    (row,) = record["rows"]
    assert (row["value"], row["low"], row["high"], row["n"], row["photos"]) == (
        0.5,
        0.25,
        0.75,
        12,
        3,
    )
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == report


def measurements() -> Measurements:
    settings = RunSettings(
        model="a",
        backend="onnxruntime",
        precisions={"encoder": "fp32"},
        threads=None,
        device=0,
        cuda_graphs=None,
        transfers="none",
        warm_up=1,
        repeats=2,
    )
    clocks = (ClockRange(name="policy0", lowest=1e9, highest=2e9),)
    return Measurements(
        timings=(Timing(model="a", kind="stage", name="encoder", samples=(0.5, 7.0)),),
        memory=(MemoryUse(model="a", stage="encoder", peaks=(5, 9), device_reason="no GPU"),),
        energy=(Energy(model="a", name="encoder", joules=3.0, runs=2, seconds=1.0),),
        settings=(settings,),
        conditions=Conditions(
            power_mode="performance", clocks=clocks, clocks_pinned=False, order="in turn"
        ),
    )


def test_raw_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    data = Data.of(Path("photos"), "photos", [1], [1])
    report = make_report(
        "latency", [], data, [], [], seconds=1, threads=None, measured=measurements()
    )
    write_report(report, tmp_path / "report.json")
    read = read_report(tmp_path / "report.json")
    assert read == report
    assert read.timings[0].samples == (0.5, 7.0)
    assert read.memory[0].peak_rss == 9
    assert read.energy[0].per_run == 1.5


def test_reports_of_earlier_versions_are_read(tmp_path: Path) -> None:
    write_report(make([make_row("a", "mIoU", "all", ESTIMATE)]), tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_bytes())
    for field in ("timings", "memory", "energy", "settings", "conditions"):
        del record[field]
    peer = {"name": "p", "what": "a peer", "image_size": 64, "python": "3.11.2"}
    record["peers"] = [
        peer | {"packages": {"torch": "2.13.0"}, "load_seconds": 1.5, "reason": None}
    ]
    (tmp_path / "old.json").write_text(json.dumps(record))
    read = read_report(tmp_path / "old.json")
    assert [(one.name, one.packages, one.load_seconds) for one in read.peers] == [
        ("p", {"torch": "2.13.0"}, 1.5)
    ]
    assert read.timings == read.memory == ()
    assert read.conditions is None
    assert read.rows[0].value == 0.5


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema_version": 2}', b'{"\xff": 1}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"not a report of samclip-bench.*--json"):
        read_report(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    nan = float("nan")
    row = make_row("a / b", "mIoU", "all", Estimate(nan, nan, float("inf"), 1, 1), "ratio")
    assert (row.value, row.low, row.high) == (None, None, None)
    write_report(make([row]), tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_bytes())["rows"][0]["value"] is None


def test_ratios_of_times_are_written_as_speeds() -> None:
    low, high = 0.4, 0.8
    estimate = Estimate(0.5, low, high, 9, 3)
    rows = [
        make_row("a / b", "task: x", "warm", estimate, "ratio"),
        make_row("a", "three tasks / encoder alone", "warm", estimate, "ratio"),
        make_row("a", "task: x", "warm", estimate, "seconds"),
    ]
    cells = [tuple(row)[3:5] for row in rows_table(rows).rows]
    assert cells[:2] == [("2.00x as fast", "1.250 - 2.500"), ("0.500x", "0.400x - 0.800x")]
    alone = [tuple(row)[3:5] for row in rows_table(rows[:2], among=rows).rows]
    assert alone == cells[:2]


def test_tables_show_units() -> None:
    rows = [
        make_row("a", "mIoU", "all", ESTIMATE),
        make_row("a", "time", "all", ESTIMATE, "seconds"),
        make_row("a / b", "mIoU", "all", ESTIMATE, "ratio"),
        make_row("a", "IoU", "sky", ESTIMATE, detail=True),
        make_row("a", "mIoU", "none", Estimate(float("nan"), 0, 1, 1, 1)),
        make_row("a", "AP", "all", Estimate(0.999512, float("nan"), float("nan"), 1, 1)),
    ]
    columns = list(show_table(rows_table(row for row in rows if not row.detail)).columns)
    assert list(columns[3].cells) == ["0.500", "0.500 s", "0.500x", "-", "0.99951"]
    intervals = list(columns[4].cells)
    assert (intervals[0], intervals[-1]) == ("0.250 - 0.750", "-")


def test_a_failed_write_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.json"
    write_whole(target, b"former")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("name", "message"), [("", "is a folder"), ("no/such/x.json", "folder")])
def test_places_that_cannot_be_written_are_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_writable(tmp_path / name)


def test_a_bundle_is_known_by_the_hash_of_its_manifest(loads: list, tmp_path: Path) -> None:
    import samclip
    from samclip.benchmarks.report import describe_bundle

    with samclip.load("fake") as model:
        subject = describe_bundle(model, "fake", "measured", "fp32")
    assert subject.manifest_sha256 == hashlib.sha256(b"{}\n").hexdigest()
    assert (subject.image_size, subject.trained_head, subject.backend) == (256, True, "fake")


def test_a_report_replaces_only_what_is_one(tmp_path: Path) -> None:
    for name, data in {"a.html": b"<!DOCTYPE html>...", "b.json": b"{}", "empty": b""}.items():
        (tmp_path / name).write_bytes(data)
    assert check_writable(tmp_path / "a.html", b"<!doctype html") == tmp_path / "a.html"
    assert check_writable(tmp_path / "b.json", b"{") == tmp_path / "b.json"
    assert check_writable(tmp_path / "empty", b"{") == tmp_path / "empty"
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    for start in (b"{", b"<!doctype html"):
        with pytest.raises(InputError, match="is there already, and samclip-bench did not"):
            check_writable(tmp_path / "photo.jpg", start)
    with pytest.raises(InputError, match="one of the reports that are read"):
        check_writable(
            tmp_path / "b.json", b"{", [tmp_path / "x" / ".." / "b.json", tmp_path / "b.json"]
        )


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices")
def test_a_report_that_is_a_pipe_or_endless_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(InputError, match=f"the report {path} is {kind}"):
            read_report(path)
    with pytest.raises(InputError, match="is not a plain file"):
        check_writable(tmp_path / "pipe", b"{")
