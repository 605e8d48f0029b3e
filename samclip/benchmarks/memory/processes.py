"""Fresh processes, one for each stage, whose memory is measured."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.walk import names_for
from samclip.benchmarks.memory.child import CODE
from samclip.benchmarks.memory.stages import Stage, bytes_read, stages_of
from samclip.benchmarks.memory.use import MemoryUse
from samclip.benchmarks.progress import Track
from samclip.errors import EngineRunError

ON_HOST = "runs on the CPU: all of it is in the resident set"
TIMEOUT = 1800.0  # seconds: 1,024 points on a slow CPU


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one process reported: bytes, and why those of the device are unknown."""

    peak: int
    device: int | None
    reason: str | None


@dataclass(frozen=True)
class Plan:
    """What is measured: how many processes a stage, the photo, and whether 1,024 points too."""

    photo: Path
    repeats: int = 1
    everything: bool = False


def measure_memory(
    contenders: Sequence[Contender], plan: Plan, track: Track
) -> tuple[MemoryUse, ...]:
    """Start a process for each stage of each model; raises EngineRunError when one fails."""
    work = [
        (contender, stages[: number + 1])
        for contender in contenders
        for stages in [stages_of(contender.model.manifest, plan.everything)]
        for number in range(len(stages))
    ]
    return tuple(_measure(contender, stages, plan) for contender, stages in track(work, "stages"))


def _measure(contender: Contender, stages: tuple[Stage, ...], plan: Plan) -> MemoryUse:
    found = list(_run(contender, stages, plan))
    on_host = contender.backend.on_host
    manifest, backend = contender.model.manifest, contender.backend.name
    disk = bytes_read(manifest, stages, backend, contender.variant.precision)
    devices = [one.device for one in found if one.device is not None]
    return MemoryUse(
        model=contender.name,
        stage=stages[-1].name,
        peaks=tuple(one.peak for one in found),
        device_memory=max(devices, default=None),
        device_reason=ON_HOST if on_host else found[-1].reason,
        disk=disk or None,
    )


def _run(contender: Contender, stages: tuple[Stage, ...], plan: Plan) -> Iterator[Found]:
    for _ in range(plan.repeats):
        with tempfile.TemporaryDirectory() as cache:
            task = {
                "steps": [stage.step for stage in stages if stage.step is not None],
                "bundle": str(contender.model.bundle.path),
                "options": {
                    "backend": contender.backend.name,
                    "precision": contender.variant.precision,
                    "threads": contender.variant.threads,
                    "cache_dir": cache,
                },
                "photo": str(plan.photo),
                "names": names_for(contender.model),
                "gpu": None if contender.backend.on_host else 0,
            }
            yield run_child(contender.name, json.dumps(task))


def run_child(name: str, task: str) -> Found:
    """Run one process to its end; raises EngineRunError when it fails."""
    command = [sys.executable, "-c", CODE, task]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineRunError(
            f"a fresh process for {name} failed ({done.returncode}): {last}. Run `samclip segment` "
            "with the same bundle and backend to see what is wrong."
        )
    return msgspec.json.decode(done.stdout, type=Found)
