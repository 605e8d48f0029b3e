"""The reports of a page, and names of their models that differ between reports."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from samclip.benchmarks.measurements import MemoryUse, State, Timing
from samclip.benchmarks.records import Report
from samclip.benchmarks.report import read_report


@dataclass(frozen=True)
class NamedReport:
    """A report, and its name, which no other of the page has."""

    name: str
    report: Report


@dataclass(frozen=True)
class TimedRun:
    """The timings of one report: only these took turns, and are compared with each other."""

    name: str
    report: Report
    timings: tuple[Timing, ...]

    def of(self, state: State) -> list[Timing]:
        """Return the timings of one state."""
        return [timing for timing in self.timings if timing.state == state]


@dataclass(frozen=True)
class NamedReports:
    """All reports of a page, in the order given."""

    all: tuple[NamedReport, ...]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> NamedReports:
        """Read reports; raises InputError."""
        reports = [read_report(path) for path in paths]
        return cls(tuple(map(NamedReport, unique_names(paths), reports)))

    def timed(self) -> Iterator[TimedRun]:
        """Return the runs that timed something, with the names that models have on the page."""
        names = self._page_names()
        for named in self.all:
            timings = tuple(
                msgspec.structs.replace(timing, model=names[named.name, timing.model])
                for timing in named.report.timings
                if timing.samples
            )
            if timings:
                yield TimedRun(named.name, named.report, timings)

    def memory(self) -> Iterator[MemoryUse]:
        """Return all uses of memory, with the names that models have on the page."""
        names = self._page_names()
        for named in self.all:
            for use in named.report.memory:
                yield msgspec.structs.replace(use, model=names[named.name, use.model])

    def _page_names(self) -> dict[tuple[str, str], str]:
        """Name the models that were timed or measured, by report and model.

        Where two reports of the same benchmark have a model of one name, the report is added.
        """
        benchmarks = {named.name: named.report.benchmark for named in self.all}
        keys = [
            (named.name, model)
            for named in self.all
            for model in dict.fromkeys(
                [timing.model for timing in named.report.timings]
                + [use.model for use in named.report.memory]
            )
        ]
        counts = Counter((benchmarks[report], model) for report, model in keys)
        repeated = {model for (_, model), count in counts.items() if count > 1}
        return {
            (report, model): f"{model} ({report})" if model in repeated else model
            for report, model in keys
        }


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name each file by its stem; where that is not unique by its folder too, then by a number."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{path.stem}" for path in paths]
    taken: dict[str, None] = {}
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        taken[next(one for one in itertools.chain([name], numbered) if one not in taken)] = None
    return list(taken)
