"""Figures of the attacks, which a run writes into the table of docs/evidence/faults.md.

A test adds what it found; the row is written if the whole run passes:

    def test_x(figures: Figures) -> None:
        ...
        figures.add("SIGKILL during export", count=100, found="93 the old bundle, 7 the new one")

    pytest tests/attacks -m "slow or not slow" --figures docs/evidence/faults.md

Figures travel as properties of the test's report, which pytest-xdist carries to the controller.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from samclip.benchmarks.report import write_whole

PROPERTY = "figure"
BEGIN = "<!-- figures: written by the run, see tests/attacks/figures.py -->"
END = "<!-- end of figures -->"
HEAD = ("| fault | count | found | test | date |", "|---|---:|---|---|---|")


@dataclass(frozen=True)
class Figure:
    """What one test found.

    Attributes:
        fault: Name of the fault, the key of its row.
        count: Number of attempts.
        found: Their outcome, in a few words.
        test: Path of the test's file, and name of its function, as in pytest's node id.
        slow: Whether the test makes all attempts.
    """

    fault: str
    count: int
    found: str
    test: str
    slow: bool


class Figures:
    """Figures of one test: the value of the fixture `figures`."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def add(self, fault: str, *, count: int, found: str) -> None:
        """Add a row; cases that name the same fault share a row, and their counts are summed.

        Raises ValueError for a count below 1, and for texts that do not fit a cell of a table.
        """
        if count < 1:
            raise ValueError(f"{fault!r}: a count of {count} shows nothing; count what was tried")
        for text in (fault, found):
            if not text.strip() or text != " ".join(text.split()) or "|" in text:
                raise ValueError(
                    f"{text!r} does not fit a cell of a table: one line of words, without '|'"
                )
        self._properties.append((PROPERTY, (fault, count, found)))


def merge_figures(figures: Iterable[Figure]) -> dict[str, tuple[str, ...]]:
    """Return one row of cells, without its date, for each fault.

    Where a test ran both with some of the cases and with all of them (marked slow), only the latter
    count.
    """
    by_fault: dict[str, list[Figure]] = {}
    for figure in figures:
        by_fault.setdefault(figure.fault, []).append(figure)
    return {fault: _merge(fault, those) for fault, those in by_fault.items()}


def _merge(fault: str, figures: list[Figure]) -> tuple[str, ...]:
    full = {figure.test for figure in figures if figure.slow}
    kept = [figure for figure in figures if figure.slow or figure.test not in full]
    found = "; ".join(dict.fromkeys(figure.found for figure in kept))
    return fault, f"{sum(figure.count for figure in kept):,}", found, _name_tests(kept)


def _name_tests(figures: list[Figure]) -> str:
    """Return the name of the one test, or of the files of several."""
    tests = {figure.test.rpartition("/")[2] for figure in figures}
    names = tests if len(tests) == 1 else {test.partition("::")[0] for test in tests}
    return ", ".join(f"`{name}`" for name in sorted(names))


def rewrite_table(page: Path, rows: Mapping[str, tuple[str, ...]], date: str) -> None:
    """Replace the rows of these faults between the markers of `page`; other rows stay unchanged.

    Several runs may write at once. Raises ValueError for a page without the markers.
    """
    lock = Path(tempfile.gettempdir()) / "samclip-figures.lock"
    with FileLock(lock):
        text = page.read_text("utf-8")
        before, begin, rest = text.partition(BEGIN)
        table, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"{page} has no table of figures between {BEGIN!r} and {END!r}")
        lines = [line for line in table.splitlines() if line.startswith("| ") and line != HEAD[0]]
        kept = {line.split("|")[1].strip(): line for line in lines}
        kept |= {fault: f"| {' | '.join((*cells, date))} |" for fault, cells in rows.items()}
        body = "\n".join([*HEAD, *(kept[fault] for fault in sorted(kept, key=str.casefold))])
        write_whole(page, f"{before}{BEGIN}\n{body}\n{END}{after}".encode())
