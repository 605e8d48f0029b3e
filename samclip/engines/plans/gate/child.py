"""The process that tries a plan: whatever the plan does to it is an answer.

It reads its task from a folder, and writes its report there at its end. It ends a second after its
time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from samclip.engines.backend_names import LibraryName
from samclip.engines.base import Engine, EngineOptions, GraphSource, Tensor
from samclip.engines.child_process import end_after
from samclip.engines.plans.gate.cases import Array, Case, CaseFile, read_case
from samclip.engines.plans.gate.measures import Tally
from samclip.engines.plans.gate.verdict import GateRow, Run
from samclip.engines.plans.library import Library
from samclip.engines.plans.record import Record
from samclip.engines.tensorrt.engine import TrtEngine
from samclip.engines.tensorrt.library import open_for_running
from samclip.engines.tensorrt.start import start_engine
from samclip.errors import BackendUnavailableError, DeviceMemoryError, SamclipError

TASK, REPORT, PLAN, ONNX, FILES, WEIGHTS = (
    "task.json",
    "report.json",
    "plan",
    "graph.onnx",
    "files",
    "weights.npz",
)
REPEATS = 3
MAX_MESSAGE = 1000
# What says nothing about the plan: the same plan may pass on the next attempt.
NO_VERDICT = (BackendUnavailableError, DeviceMemoryError)


class Task(Record, frozen=True, kw_only=True):
    """What to try: a plan of a library on a GPU, and the cases.

    `is_stripped`: the plan gets the weights of the graph, which is in the folder too.
    """

    library: LibraryName
    device: int
    graph: str
    precision: str
    is_stripped: bool
    library_repeats: bool
    cases: tuple[CaseFile, ...]
    seconds: Annotated[float, msgspec.Meta(gt=0)]


class Report(Record, frozen=True, kw_only=True):
    """What came of it: the measures, or the error that ended it.

    `is_verdict`: whether an error is the plan's own, not the machine's.
    """

    rows: tuple[GateRow, ...] = ()
    error: str = ""
    is_verdict: bool = True


def main(folder: str) -> None:
    """Try the plan in `folder`, and write the report."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    root = Path(folder)
    task = msgspec.json.decode((root / TASK).read_bytes(), type=Task)
    end_after(task.seconds)
    report = _attempt(task, root)
    partial = root / f"{REPORT}.partial"
    partial.write_bytes(msgspec.json.encode(report))
    partial.replace(root / REPORT)
    os._exit(0)  # without waiting for the libraries' threads


def _attempt(task: Task, root: Path) -> Report:
    try:
        return Report(rows=try_plan(task, root))
    except SamclipError as error:
        message = f"{type(error).__name__}: {error}"[:MAX_MESSAGE]
        return Report(error=message, is_verdict=not isinstance(error, NO_VERDICT))
    except MemoryError as error:
        return Report(error=f"memory is short: {error}"[:MAX_MESSAGE], is_verdict=False)


def try_plan(task: Task, root: Path) -> tuple[GateRow, ...]:
    """Run a plan in all ways, and measure its answers.

    Each case is run several times: alone, without a CUDA graph; replayed from one; and in two
    threads at once, which take the cases in opposite order.
    """
    library, _ = open_for_running(task.library, task.device)
    tally = Tally(task.precision, task.library_repeats)
    alone = EngineOptions(device=task.device, contexts=1, cuda_graphs=False)
    with closing(_start(library, task, root, alone)) as engine:
        for case in _cases(task, root):
            repeat_case(tally, "alone", case, engine, REPEATS)
    replayed = EngineOptions(device=task.device, contexts=2, cuda_graphs=True)
    with closing(_start(library, task, root, replayed)) as engine:
        for case in _cases(task, root):  # the first run comes before the capture
            repeat_case(tally, "replayed", case, engine, 1 + REPEATS)
        _together(tally, task, root, engine)
    return tally.rows()


def _start(library: Library, task: Task, root: Path, options: EngineOptions) -> TrtEngine:
    plan, source = (root / PLAN).read_bytes(), _source(task, root)
    return start_engine(library, plan, task.is_stripped, source, options)


def _source(task: Task, root: Path) -> GraphSource:
    """Read the graph; its weights only where the plan lacks them."""
    if not task.is_stripped:
        return GraphSource(task.graph, b"")
    folder = root / FILES
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    with np.load(root / WEIGHTS) as stored:
        weights = dict(stored)
    return GraphSource(task.graph, (root / ONNX).read_bytes(), weights, files)


def _cases(task: Task, root: Path) -> Iterator[Case]:
    for saved in task.cases:
        yield read_case(saved.name, root / saved.file)


def repeat_case(tally: Tally, run: Run, case: Case, engine: Engine, times: int) -> None:
    """Ask a case several times; compare each answer with FP32's, and with the first one."""
    first = None
    for _ in range(times):
        found = _on_host(engine.run(case.feeds))
        tally.add(run, case, found)
        if first is None:
            tally.add_compared(run, case, found)
        else:
            tally.add_repeat(run, case, first, found)
        first = first or found


def _together(tally: Tally, task: Task, root: Path, engine: TrtEngine) -> None:
    faults: list[BaseException] = []
    lock = threading.Lock()

    start = threading.Barrier(2)

    def work(files: tuple[CaseFile, ...]) -> None:
        try:
            start.wait()
            for saved in files:
                case = read_case(saved.name, root / saved.file)
                for _ in range(REPEATS):
                    found = _on_host(engine.run(case.feeds))
                    with lock:
                        tally.add("together", case, found)
        except BaseException as error:  # raised again by the main thread
            faults.append(error)

    orders = (task.cases, task.cases[::-1])
    threads = [threading.Thread(target=work, args=(files,)) for files in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def _on_host(results: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in results.items()}
