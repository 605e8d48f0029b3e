"""New processes, timed from their start to the first answers."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from samclip.benchmarks.child_process import run_python
from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.first_answer import CODE, POINT
from samclip.benchmarks.latency.photo_pipeline import names_for
from samclip.benchmarks.measurements import Timing
from samclip.progress import Progress, track

FIRST_MASK, ALL_ANSWERS = "new process to first mask", "new process to three answers"
TIMEOUT = 600.0  # seconds
Steps = dict[str, float]


def measure_processes(
    contenders: Sequence[Contender], count: int, photos: Sequence[Path], progress: Progress
) -> list[Timing]:
    """Start `count` processes for each model, in turn; raises EngineRunError when one fails.

    Text embeddings are cached nowhere beforehand. Python's modules are compiled, as pip leaves
    them, by a process for each model that does not count; so the bundle's files and Python's own
    are likely in the system's cache.
    """
    found: dict[str, list[Steps]] = {contender.name: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as compiled:
        for contender in contenders if count else ():
            run_process(contender, photos[0], Path(compiled))
        for number in track(progress, range(count), "new processes"):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                steps = run_process(contender, photos[number % len(photos)], Path(compiled))
                found[contender.name].append(steps)
    return [
        timing
        for name, runs in found.items()
        if runs
        for timing in _timings(name, runs, len(photos))
    ]


def run_process(contender: Contender, photo: Path, compiled: Path) -> Steps:
    """Start one process and return its steps in order, in seconds; raises EngineRunError.

    `compiled` is the folder of compiled modules, as for `run_python`.
    """
    with tempfile.TemporaryDirectory() as cache:
        answer = run_python(
            f"a new process for {contender.name}",
            CODE,
            repr(time.monotonic()),
            json.dumps(describe_work(contender, photo, cache)),
            timeout=TIMEOUT,
            retry="samclip classify",
            compiled=compiled,
        )
    return msgspec.json.decode(answer, type=Steps)


def describe_work(contender: Contender, photo: Path, cache: str) -> dict[str, Any]:
    """Describe to a new process how to open the model of a contender, and its photo and names."""
    options = {
        "backend": contender.backend.name,
        "precision": contender.variant.precision,
        "threads": contender.variant.threads,
        "cache_dir": cache,
    }
    return {
        "bundle": str(contender.model.bundle.path),
        "options": options,
        "photo": str(photo),
        "names": names_for(contender.model),
    }


def _timings(name: str, runs: Sequence[Steps], photos: int) -> list[Timing]:
    """Return the times to the first mask and to the last answer, the latter with its stages."""
    steps = list(runs[0])
    to_mask = steps[: steps.index(POINT) + 1]
    wholes = ((FIRST_MASK, to_mask), (ALL_ANSWERS, steps))
    found = [
        _timing(name, whole, [sum(run[step] for step in parts) for run in runs], photos, None)
        for whole, parts in wholes
    ]
    stages = [
        _timing(name, step, [run[step] for run in runs], photos, ALL_ANSWERS) for step in steps
    ]
    return [*found, *stages]


def _timing(
    model: str, name: str, samples: Sequence[float], photos: int, part_of: str | None
) -> Timing:
    return Timing(
        model=model,
        kind="process",
        name=name,
        state="cold",
        samples=tuple(samples),
        photos=photos,
        part_of=part_of,
    )
