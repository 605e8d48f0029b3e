"""The probe of a precision: it is tried once on a machine in a separate process, and kept.

OpenVINO takes BF16 on processors that only emulate it, where it was 33 times slower than FP32, and
its kernels have ended processes on a processor that says it has them. So a child tries it, for a
limited time, and whatever becomes of it is an answer. An answer holds for one backend, processor
and version of the library.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Literal

import msgspec

from samclip.engines.base import FULL, EnginePrecision, Probe, Times
from samclip.engines.child_process import describe_end, start_child, starting
from samclip.engines.found_here import keep_fact, place_of, read_fact

START = starting("samclip.engines.precision_child")
SECONDS = 60.0
ROUNDS = 5  # of each layer, after one that chooses kernels
LEAST_GAIN = 1.1  # times as fast as FP32: less is not worth other answers
MAX_DETAIL = 2000
REMEDY = "leave engine_precision out, or choose another backend"


class Task(msgspec.Struct, frozen=True):
    """What to try: a precision of a backend, by its name; the process ends after `seconds`."""

    backend: str
    precision: EnginePrecision
    seconds: float


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What came of a try: whether the precision is worth it, and why; `date` in UTC.

    `facts`: all that the answer depends on.
    """

    schema_version: Literal[1] = 1
    precision: EnginePrecision
    facts: tuple[str, ...]
    suits: bool
    detail: Annotated[str, msgspec.Meta(max_length=MAX_DETAIL)]
    date: str


def probe_precision(
    backend: str, precision: EnginePrecision, facts: tuple[str, ...], *, ask: bool = True
) -> Probe:
    """Return whether this machine computes faster in `precision` on a `Reducing` backend.

    `facts`: all that the answer depends on, its `precision_facts`. Without `ask` nothing is tried.
    """
    facts = (backend, *facts)
    name = _name(precision, facts)
    answer = read_fact(name, Answer)
    if answer is not None and (answer.precision, answer.facts) != (precision, facts):
        answer = None
    if answer is None and not ask:
        return Probe(False, f"{precision} was never tried on this machine", REMEDY)
    if answer is None:
        answer = _try(backend, precision, facts)
        keep_fact(name, answer)
    if answer.suits:
        return Probe(True, answer.detail)
    place = place_of(name)
    again = "" if place is None else f"; to try it again, remove {place}"
    return Probe(False, answer.detail, f"{REMEDY}{again}")


def time_in_turns(layers: Iterable[Mapping[EnginePrecision, Callable[[], object]]]) -> Times:
    """Run each layer in FP32 and in one other precision, in turns; return sums of least times."""
    full = reduced = 0.0
    for runs in layers:
        least = dict.fromkeys(runs, float("inf"))
        for number in range(1 + ROUNDS):
            for precision, run in runs.items():
                start = time.perf_counter()
                run()
                if number:
                    least[precision] = min(least[precision], time.perf_counter() - start)
        full += least.pop(FULL)
        reduced += sum(least.values())
    return Times(full, reduced)


def _try(backend: str, precision: EnginePrecision, facts: tuple[str, ...]) -> Answer:
    suits, detail = _ask_child(backend, precision)
    return Answer(
        precision=precision,
        facts=facts,
        suits=suits,
        detail=detail[:MAX_DETAIL],
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _ask_child(backend: str, precision: EnginePrecision) -> tuple[bool, str]:
    """Return whether a precision suits this machine, and why or why not."""
    task = msgspec.json.encode(Task(backend, precision, SECONDS)).decode()
    late = f"computing in {precision} did not end within {SECONDS:g} s here"
    try:
        if not sys.executable:
            raise OSError("this Python does not know its own executable")
        process = start_child(START, task, subprocess.DEVNULL, subprocess.PIPE)
    except OSError as error:
        return False, f"no process could be started to try {precision}: {error.strerror or error}"
    with process:
        try:
            written, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return False, late
        finally:
            process.kill()
    try:
        times = msgspec.json.decode(written, type=Times)
    except msgspec.MsgspecError:
        ending = describe_end(process.returncode, written)
        by_timer = process.returncode == -getattr(signal, "SIGALRM", 0)  # the child's own
        return False, late if by_timer else f"computing in {precision} ended its process: {ending}"
    return _compare(precision, times)


def _compare(precision: EnginePrecision, times: Times) -> tuple[bool, str]:
    gain = times.full / times.reduced
    detail = f"{precision} is {gain:.2f}x as fast as FP32 in layers that were tried here"
    if gain >= LEAST_GAIN:
        return True, detail
    return False, f"{detail}, at least {LEAST_GAIN:g}x is asked for"


def _name(precision: str, facts: tuple[str, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode((precision, facts))).hexdigest()[:32]
