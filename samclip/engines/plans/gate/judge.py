"""A plan judged: FP32 answers here, the plan in a separate process, which may crash or hang."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from samclip.engines.backend_names import TENSORRT
from samclip.engines.base import GraphSource
from samclip.engines.child_process import describe_end, start_child, starting
from samclip.engines.plans.gate.cases import (
    NOISE,
    Case,
    CaseFile,
    Trial,
    answer,
    make_canary,
    save_case,
)
from samclip.engines.plans.gate.child import FILES, ONNX, PLAN, REPORT, TASK, WEIGHTS, Report, Task
from samclip.engines.plans.gate.verdict import MAX_REASON, JudgedOn, State, Verdict
from samclip.engines.plans.library import Library
from samclip.engines.plans.network import write_files
from samclip.engines.plans.own_files import PlanBytes
from samclip.engines.plans.sidecar import Sidecar
from samclip.engines.steps import ExportBundle
from samclip.engines.tensorrt.kernels import compiles_before_running
from samclip.errors import PlanBuildError
from samclip.progress import SILENT, Progress

START = starting("samclip.engines.plans.gate.child")
SECONDS = 120.0  # for the start of the process and of the plan
SECONDS_PER_CASE = 60.0  # which runs a dozen times
SAID = "said"


@dataclass(frozen=True)
class Defendant:
    """A plan to judge: its bytes, and the graph that it was built from.

    `is_stripped`: it was built without weights, and takes those of `source`. `precision`: by whose
    limits it is judged. `seconds`: how long the process may take, None for as long as its cases
    need.
    """

    plan: PlanBytes
    source: GraphSource
    library: Library
    precision: str
    is_stripped: bool = False
    seconds: float | None = None

    @classmethod
    def of(
        cls, sidecar: Sidecar, plan: PlanBytes, source: GraphSource, library: Library
    ) -> Defendant:
        """Return the plan that a sidecar describes."""
        stripped = sidecar.options.strip_weights
        return cls(plan, source, library, sidecar.graph.precision, stripped)


def judge_plan(defendant: Defendant, trial: Trial, progress: Progress = SILENT) -> Verdict:
    """Compare a plan with FP32 on this machine's GPU; the plan runs in another process.

    A plan that departs, crashes or hangs has failed. It stays unjudged, with the reason, where the
    machine could not run it: without a driver, or with too little memory. Raises PlanBuildError
    when FP32 itself has no answer, or the disk has no room.
    """
    started = time.monotonic()
    name = defendant.source.name
    try:
        with tempfile.TemporaryDirectory(prefix="samclip-gate-") as made:
            folder = Path(made)
            with progress.stage(f"{name}: FP32 answers"):
                saved = _save_cases(defendant, answer(trial), folder)
            seconds = defendant.seconds or SECONDS + SECONDS_PER_CASE * len(saved.files)
            _write_task(defendant, saved.files, seconds, folder)
            with progress.stage(f"{name}: the plan answers"):
                report = _run(folder, seconds)
    except OSError as error:
        raise PlanBuildError(
            f"the plan of {name!r} could not be judged: {error.filename or 'TMPDIR'}: "
            f"{error.strerror or error}. Make room there, or set TMPDIR to another folder."
        ) from error
    verdict = Verdict(
        state=_state(report),
        reason=report.error[:MAX_REASON],
        rows=report.rows,
        reference=hashlib.sha256(trial.reference.onnx).hexdigest(),
        inputs=saved.digest,
        cases=tuple(file.name for file in saved.files),
        machine=machine_of(defendant.library),
        canary=make_canary(saved.noise, trial.noise, defendant.precision),
        seconds=round(time.monotonic() - started, 2),
    )
    if verdict.state == "passed" and verdict.failures:
        return msgspec.structs.replace(verdict, state="failed")
    return verdict


def machine_of(library: Library) -> JudgedOn | None:
    """Describe the machine that a verdict holds for; None without a GPU."""
    gpu = library.state.gpu
    if gpu is None:
        return None
    return JudgedOn(
        gpu=gpu.name,
        processors=gpu.processors,
        memory=gpu.memory,
        driver=library.state.driver,
        cuda=gpu.cuda,
        library_version=library.version,
    )


def _state(report: Report) -> State:
    if not report.error:
        return "passed"
    return "failed" if report.is_verdict else "unjudged"


@dataclass(frozen=True)
class _Saved:
    """The cases on the disk; `noise`: the last of them."""

    files: tuple[CaseFile, ...]
    digest: str
    noise: Case


def _save_cases(defendant: Defendant, cases: Iterable[Case], folder: Path) -> _Saved:
    files, digest, case = [], hashlib.sha256(), None
    for number, case in enumerate(cases):
        _check_reference(defendant.source.name, case)
        file = f"{number:03}.npz"
        digest.update(save_case(case, folder / file).encode())
        files.append(CaseFile(name=case.name, file=file))
    if case is None or case.name != NOISE:
        raise ValueError("the noise is asked last")
    return _Saved(tuple(files), digest.hexdigest(), case)


def _check_reference(graph: str, case: Case) -> None:
    for output, array in case.expected.items():
        if not np.isfinite(array).all():
            raise PlanBuildError(
                f"the graph {graph!r} gives NaN or infinity for {output!r} in FP32 already, on "
                f"ONNX Runtime's CPU ({case.name}): no plan of it can be judged. Export the bundle "
                "again.",
                steps=(ExportBundle(),),
            )


def _write_task(
    defendant: Defendant, files: tuple[CaseFile, ...], seconds: float, folder: Path
) -> None:
    library, source = defendant.library, defendant.source
    task = Task(
        library=library.name,
        device=library.device,
        graph=source.name,
        precision=defendant.precision,
        is_stripped=defendant.is_stripped,
        # else RTX exchanges the first kernels of a shape for specialised ones between two runs
        library_repeats=library.name == TENSORRT or compiles_before_running(library.module),
        cases=files,
        seconds=seconds,
    )
    (folder / TASK).write_bytes(msgspec.json.encode(task))
    (folder / PLAN).write_bytes(bytes(defendant.plan))
    if defendant.is_stripped:
        (folder / ONNX).write_bytes(source.onnx)
        (folder / FILES).mkdir()
        write_files(source, folder / FILES)
        np.savez(folder / WEIGHTS, **source.weights)  # type: ignore[arg-type]


def _run(folder: Path, seconds: float) -> Report:
    """Run the child; its end without a report is a verdict too."""
    if not sys.executable:
        return Report(error="this Python does not know its own executable", is_verdict=False)
    with (folder / SAID).open("wb") as said:
        process = start_child(START, str(folder), subprocess.DEVNULL, said, said)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Report(error=f"the plan hung: its process did not end within {seconds:g} s")
        finally:
            process.kill()
            process.wait()
    with suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / REPORT).read_bytes(), type=Report)
    if process.returncode == -getattr(signal, "SIGALRM", 0):  # the child's own timer
        return Report(error=f"the plan hung: its process did not end within {seconds:g} s")
    ending = describe_end(process.returncode, (folder / SAID).read_bytes())
    return Report(error=f"the plan crashed its process: {ending}")
