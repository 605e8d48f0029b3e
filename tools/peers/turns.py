"""Turns: every contender runs on the same photo, one computes while the others wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from samclip.benchmarks.latency.rounds import FEWEST, Schedule
from samclip.benchmarks.measurements import Participant
from samclip.errors import CheckpointError, PeerError
from samclip.progress import Progress, track
from tools.peers.contenders import Contender
from tools.peers.environments import Report
from tools.peers.worker_process import Loaded, PeakMemory, Ran, WorkerProcess

SETTLE = 0.3  # seconds between two turns: thread pools go on spinning for a while
LOADED, ALL = "model loaded", "all rounds"


@dataclass
class Outcome:
    """The answers of a contender so far, and the `reason` once it has failed.

    `rounds`: seconds by stage of each kept round. `peaks`: its highest resident set by the time
    it was loaded, and by the end.
    """

    contender: Contender
    process: WorkerProcess | None = None
    loaded: Loaded | None = None
    reason: str | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)

    def participant(self) -> Participant:
        """Return its record for the report."""
        loaded = self.loaded
        return Participant(
            name=self.contender.name,
            what=self.contender.what,
            image_size=self.contender.image_size,
            python="" if loaded is None else loaded.python,
            packages={} if loaded is None else loaded.packages,
            load_seconds=None if loaded is None else loaded.seconds,
            reason=self.reason,
        )


def measure_peers(
    contenders: Sequence[Contender],
    schedule: Schedule,
    photos: Sequence[Path],
    report: Report,
    progress: Progress,
) -> list[Outcome]:
    """Start all, one after another, then let them take turns; one that fails takes no further part.

    The rounds of one that failed are not kept.
    """
    outcomes = [Outcome(contender) for contender in contenders]
    with ExitStack() as processes:
        for outcome in outcomes:
            with _note_failure(outcome, report):
                _start(outcome, processes, report)
        for photo, kept in _rounds(schedule, photos, progress):
            for outcome in outcomes if kept % 2 == 0 else reversed(outcomes):
                with _note_failure(outcome, report):
                    _run(outcome, photo, kept >= 0)
        for outcome in outcomes:
            with _note_failure(outcome, report):
                _note_peak(outcome, ALL)
    return outcomes


def _rounds(
    schedule: Schedule, photos: Sequence[Path], progress: Progress
) -> Iterator[tuple[Path, int]]:
    """Return each round's photo, and its number among those that are kept, below 0 for warm-up.

    The schedule's seconds begin after the warm-up, in which some peers compile.
    """
    start = time.monotonic()
    for number in track(progress, range(schedule.warm_up + schedule.repeats), "rounds"):
        kept = number - schedule.warm_up
        if kept == 0:
            start = time.monotonic()
        if kept >= FEWEST and schedule.is_over(time.monotonic() - start):
            break
        yield photos[kept % len(photos)], kept


@contextmanager
def _note_failure(outcome: Outcome, report: Report) -> Iterator[None]:
    """Note a failure as the contender's reason, and report it."""
    try:
        yield
    except (PeerError, CheckpointError) as error:
        outcome.reason = str(error)
        outcome.rounds.clear()
        if outcome.process is not None:
            outcome.process.close()
        report(f"{outcome.contender.name} takes no further part: {error}")


def _start(outcome: Outcome, processes: ExitStack, report: Report) -> None:
    report(f"{outcome.contender.name}: loading")
    process, request = outcome.contender.start(report)
    outcome.process = processes.enter_context(process)
    outcome.loaded = process.ask(request, Loaded)
    _note_peak(outcome, LOADED)


def _run(outcome: Outcome, photo: Path, keep: bool) -> None:
    if outcome.reason is not None:
        return
    time.sleep(SETTLE)
    found = _process(outcome).ask({"do": "run", "photo": str(photo)}, Ran)
    if keep:
        outcome.rounds.append(found.stages)


def _note_peak(outcome: Outcome, stage: str) -> None:
    if outcome.reason is not None:
        return
    peak = _process(outcome).ask({"do": "memory"}, PeakMemory).peak
    if peak is not None:
        outcome.peaks[stage] = peak


def _process(outcome: Outcome) -> WorkerProcess:
    if outcome.process is None:
        raise PeerError("it was never started")
    return outcome.process
