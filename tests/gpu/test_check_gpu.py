"""The check for machines with a GPU: limits, partial results, and what counts as a failure."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from samclip.engines.base import Probe
from samclip.errors import BackendUnavailableError, PlanGateError, PlanMissingError

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SCRIPT = str(FOLDER / "check_gpu.py")

# A part that behaves as its bundle's name says, run by the script itself.
PART = """
import os, signal, subprocess, sys, time
from report import Row, attempt, NotHereError
from samclip.errors import BackendUnavailableError, EngineRunError, PlanGateError

def check(options):
    yield Row("found before", 1.0, "", 0.5)
    if options.bundle == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        yield Row("child", child.pid)
        yield Row("part", os.getpid())
        time.sleep(600)
    if options.bundle == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if options.bundle == "fails":
        raise EngineRunError("it went wrong")
    if options.bundle == "is missing":
        raise BackendUnavailableError("tensorrt is not installed")
    if options.bundle == "wrong figure":
        yield Row("cosine", 0.018, "", 0.9995)
    if options.bundle == "no figure":
        yield Row("cosine", float("nan"), "", 0.9995)
    if options.bundle == "one fails":
        def contender():
            yield Row("half of it", 1)
            raise PlanGateError("the plan is wrong")
        yield from attempt("contender", contender)
        yield Row("the next one", 2)
    yield Row("found after", 1.0)
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("check_gpu")


@pytest.fixture
def made_part(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the part "libraries" be PART, in the processes that the script starts too."""
    copy = tmp_path / "tests" / "gpu"
    (copy / "parts").mkdir(parents=True)
    for name in ("check_gpu.py", "processes.py", "report.py"):
        (copy / name).write_text((FOLDER / name).read_text())
    (copy / "parts" / "libraries.py").write_text(PART.replace("def check(", "def check_libraries("))
    (tmp_path / "samclip").symlink_to(ROOT / "samclip")
    monkeypatch.chdir(tmp_path)
    return copy / "check_gpu.py"


def run_made(made_part: Path, behaviour: str, *more: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(made_part), "--bundle", behaviour, "--output", "out"]
    done = subprocess.run(
        [*command, "--parts", "libraries", *more], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(Path("out/part-libraries.json").read_text()), done.stdout


@pytest.mark.parametrize(
    ("behaviour", "more", "code", "state", "expected"),
    [
        ("passes", (), 0, "passed", "found after"),
        ("hangs", ("--limit", "16"), 1, "FAILED", "not done after its limit"),
        ("crashes", (), 1, "FAILED", "ended with code -11"),
        ("fails", (), 1, "FAILED", "EngineRunError: it went wrong"),
        ("is missing", (), 0, "not run", "tensorrt is not installed"),
        ("is missing", ("--must-run",), 1, "FAILED", "tensorrt is not installed"),
        ("wrong figure", (), 1, "FAILED", "0.018"),
        ("no figure", (), 1, "FAILED", "nan"),
        ("one fails", (), 1, "FAILED", "PlanGateError: the plan is wrong"),
        ("passes", ("--limit", "5"), 1, "UNFINISHED", "no time left"),
    ],
)
def test_how_a_part_ends(
    made_part: Path, behaviour: str, more: tuple[str, ...], code: int, state: str, expected: str
) -> None:
    found, part, printed = run_made(made_part, behaviour, *more)
    assert (found, part["state"]) == (code, state)
    assert expected in printed
    rows = {row["what"]: row for row in part["rows"]}
    if state != "UNFINISHED":
        assert rows["found before"]["value"] == 1.0
    if behaviour == "one fails":
        assert (rows["contender"]["state"], rows["the next one"]["value"]) == ("FAILED", 2)
    if behaviour == "hangs":  # what a part started ends with it
        with pytest.raises(ProcessLookupError):
            while True:
                os.kill(rows["child"]["value"], 0)
                if _is_zombie(rows["child"]["value"]):
                    break
                time.sleep(0.05)
            raise ProcessLookupError


def _is_zombie(number: int) -> bool:
    return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_killed_call_keeps_its_rows_and_is_resumed(made_part: Path) -> None:
    command = [sys.executable, str(made_part), "--bundle", "hangs", "--output", "out"]
    call = subprocess.Popen([*command, "--parts", "libraries"], start_new_session=True)
    path = Path("out/part-libraries.json")
    rows: list[Any] = []
    while len(rows) < 3:
        time.sleep(0.05)
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
    part = json.loads(path.read_text())
    call.kill()
    call.wait()
    os.killpg(rows[2]["value"], 9)  # nobody was left to end the part
    assert (part["state"], part["rows"][0]["what"]) == ("UNFINISHED", "found before")
    code, found, _ = run_made(made_part, "passes", "--resume")
    assert (code, found["state"]) == (0, "passed")
    before = path.stat().st_mtime_ns
    code, _, _ = run_made(made_part, "fails", "--resume")  # passed already: not run again
    assert (code, path.stat().st_mtime_ns) == (0, before)
    command = [sys.executable, str(made_part), "--table", "out"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "found after" in shown


def test_a_dry_run_has_time_for_a_busy_cpu(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    report: Any = importlib.import_module("report")

    def start(name: str, command: list[str], folder: Path, limit: float, variables: Any) -> Any:
        assert float(command[command.index("--seconds") + 1]) == limit  # the part's own
        limits.append(limit)
        return report.PartResult(name, report.PASSED)

    monkeypatch.setattr(script, "start_part", start)
    wanted = ["--parts", "libraries", "--output", str(tmp_path)]
    for more in ([], ["--dry-run"], ["--dry-run", "--limit", "60"]):
        assert script.main([*wanted, *more]) == 0
    usual = script.PARTS["libraries"][-1]
    assert limits[:2] == [usual, usual * script.DRY_PATIENCE]
    assert 50 < limits[2] < 60


def test_only_what_is_missing_counts_as_not_run(script: ModuleType) -> None:
    report: Any = importlib.import_module("report")
    missing = (
        report.NotHereError("no torch"),
        BackendUnavailableError("no driver"),
        PlanMissingError("no plan"),
    )
    faults = (PlanGateError("wrong"), ImportError("no such name"), RuntimeError("CUDA error"))
    assert {report.row_of("it", error).state for error in missing} == {"not run"}
    for error in faults:
        row = report.row_of("it", error)
        assert (row.state, str(error) in row.error) == ("FAILED", True)


def test_every_part_can_be_imported(script: ModuleType) -> None:
    for name in script.PARTS:
        assert callable(script.part_function(name))


def test_no_ratio_without_the_reference(script: ModuleType) -> None:
    timing: Any = importlib.import_module("parts.timing")
    options = Namespace(dry_run=True)
    one = timing.Contender("one", lambda: None, lambda: None)
    rows = list(timing.compare_times("one", one, None, "it did not compile", options, None))
    assert [row.value for row in rows if "ratio" in row.what] == ["none: it did not compile"] * 2
    other = timing.Contender("other", None, lambda: time.sleep(0.001))
    rows = list(timing.compare_times("one", one, other, "", options, None))
    ratios = {row.what: row for row in rows if "ratio" in row.what}
    assert ratios["one: on the device: ratio"].value == "none: the reference has no such time"
    found = ratios["one: with transfers: ratio to other, in turns"]
    assert 0 < found.low <= found.value <= found.high < 1


def test_a_race_takes_turns(script: ModuleType) -> None:
    timing: Any = importlib.import_module("parts.timing")
    order: list[str] = []
    runs = [lambda name=name: order.append(name) for name in "ab"]
    times = timing.race(runs, Namespace(dry_run=False), None)
    assert "".join(order[:8]) == "baabbaab"
    assert [len(one) for one in times] == [timing.ROUNDS] * 2


@pytest.mark.parametrize("integrated", [False, True])
def test_memory_that_is_the_machines_is_never_taken(script: ModuleType, integrated: bool) -> None:
    machines: Any = importlib.import_module("parts.machines")
    loads: Any = importlib.import_module("parts.loads")
    options = Namespace(dry_run=True, device=0)
    stand_in = machines.with_memory(machines.machine_of(options), integrated)
    least: list[int] = []

    def start(limited: Any) -> Any:
        engine = limited.affine(0)[0]
        run = engine.run

        def watched(*given: Any) -> Any:
            device = stand_in.open_device(0)
            with device.active():
                least.append(device.free_memory()[0])
            return run(*given)

        engine.run = watched
        return engine

    feeds = {"x": np.ones((64, 4096), np.float32)}
    rows = list(loads.shortage("it", start, feeds, stand_in, options))
    assert [row.state for row in rows] == ["shown", "passed"]
    assert rows[0].value == "DeviceMemoryError"
    assert (min(least) > machines.FAKE_MEMORY / 2) == integrated


def test_precisions_that_a_backend_has_are_judged(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_bundle import write_tiny_bundle

    from samclip.runtime.bundles.bundle import Bundle

    gates: Any = importlib.import_module("parts.gates")
    report: Any = importlib.import_module("report")
    bundle = Bundle.open(write_tiny_bundle(tmp_path / "bundle"))
    assert gates.reduced(bundle, "tensorrt") == ("fp16",)
    assert gates.reduced(bundle, "cuda") == ()
    monkeypatch.setattr(gates, "open_bundle", lambda _: bundle)
    ready = SimpleNamespace(probe=lambda: Probe(True, "works"))
    monkeypatch.setattr(gates, "get_backend", lambda _: ready)
    with pytest.raises(report.NotHereError, match="nothing but FP32 for cuda"):
        next(gates.check_gates("cuda", script.parse([])))
