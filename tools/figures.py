"""The figures of README.md and of all pages: where each comes from, and whether it still holds."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from pages import (  # type: ignore[import-not-found]  # noqa: E402 - the tests' reader
    PAGES,
    prose,
    sections,
)

from samclip.benchmarks.records import Report, Row  # noqa: E402 - after the path
from samclip.benchmarks.report import read_report  # noqa: E402
from samclip.cli.terminal import err, out, say  # noqa: E402
from samclip.errors import InputError  # noqa: E402

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its old name
    import tomli as tomllib

FILE = ROOT / "tools" / "figures.toml"
README = ROOT / "README.md"
# A number with decimals or a unit, which therefore was measured.
FIGURE = re.compile(
    r"(?<![\w.,/-])\d[\d,]*(?:\.\d+(?: (?:%|[kMG]i?B|m?s)(?!\w))?| (?:%|[kMG]i?B|m?s|x)(?!\w))"
)
# The level of all intervals, and versions of Python.
NOT_MEASURED = {"95 %", "3.10", "3.11", "3.12", "3.13"}
# A command, in the text of a table, whose figures the table has.
MEASURING = re.compile(r"`((?:samclip-|scripts/|python -m )[^`]*)`")
# What a page with measured tables says of the measurement.
CONDITIONS = {
    "date, as 21 November 2026": re.compile(
        r"(?<!\d)\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|"
        r"November|December) \d{4}|(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)"
    ),
    "machine, as two cores of an Intel Xeon": re.compile(r"Intel|Xeon|AMD|EPYC|Neoverse|H200|Orin"),
    "version of a package, as ONNX Runtime 1.31.1": re.compile(
        r"(?:ONNX Runtime|onnxruntime|OpenVINO|torch|TensorRT(?: for RTX)?),? \d+\.\d+"
    ),
}
UNITS = {"%": 1e-2, "ms": 1e-3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "MiB": 2**20, "GiB": 2**30}


class FromReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a benchmark's report; `model` is a pattern, `field` the number that is quoted."""

    benchmark: str
    measure: str
    subset: str
    model: str = "samclip-tiny"
    field: str = "value"


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure of README.md; the fields are those of the file's comment."""

    says: str
    source: str
    cell: str
    command: str
    files: str | None = None
    report: FromReport | None = None


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    figure: tuple[Figure, ...]


def read_figures() -> tuple[Figure, ...]:
    """Read the list of README's figures."""
    return msgspec.convert(tomllib.loads(FILE.read_text("utf-8")), Listed).figure


def check_pages(figures: Sequence[Figure], readme: str | None = None) -> Iterator[str]:
    """Return what does not hold of README and the pages that it takes its figures from.

    `readme`: its text, None for the file's.
    """
    text = prose(README.read_text("utf-8") if readme is None else readme)
    text = " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())
    for figure in figures:
        if not _stands_in(figure.says, text):
            yield f"{figure.says!r} is listed, and README.md does not say it"
        page = (ROOT / figure.source).read_text("utf-8")
        if not _stands_in(figure.cell, page):
            yield f"{figure.says!r} comes from {figure.cell!r}, which {figure.source} does not have"
        if " ".join(figure.command.split()) not in " ".join(page.split()) and not figure.files:
            yield f"{figure.source} does not name the command {figure.command!r}"
        if not _agrees(figure.says, number(figure.cell)):
            yield f"README.md says {figure.says!r}, {figure.source} {figure.cell!r}"
        if figure.files is not None:
            size = sum(f.stat().st_size for f in (ROOT / figure.files).rglob("*") if f.is_file())
            if not _agrees(figure.cell, size):
                said = f"{figure.source} says {figure.cell!r}"
                yield f"{figure.files} has {size / 1e6:.1f} MB; {said}"
    known = {figure.says for figure in figures} | NOT_MEASURED
    for found in dict.fromkeys(match[0] for match in FIGURE.finditer(text)):
        if found not in known:
            yield f"README.md says {found!r}, which {FILE.name} does not list"


def check_conditions(pages: Sequence[Path] = PAGES) -> Iterator[str]:
    """Return which pages have measured tables and lack their machine, versions or date.

    Tables that a run of tests writes have their own dates.
    """
    for page in pages:
        name = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name
        tables = (table for section in sections(page) for table in section.tables())
        if not any(table.has_figures(name) and MEASURING.search(table.text) for table in tables):
            continue
        text = " ".join(page.read_text("utf-8").split())
        for what, pattern in CONDITIONS.items():
            if not pattern.search(text):
                yield f"{name} has measured tables and does not say the {what}"


def check_reports(
    figures: Sequence[Figure], reports: Sequence[Report]
) -> Iterator[tuple[bool, str]]:
    """Compare figures with the rows of reports; whether each agrees, and a line on it."""
    for figure in figures:
        for report in reports:
            wanted = figure.report
            if wanted is None or wanted.benchmark != report.benchmark:
                continue
            rows = [row for row in report.rows if _is(row, wanted)]
            if len(rows) != 1:
                yield False, f"{figure.says!r}: {len(rows)} rows of the report are {wanted}"
                continue
            value = getattr(rows[0], wanted.field)
            agrees = value is not None and _agrees(figure.cell, value)
            verdict = "agrees" if agrees else "DIFFERS"
            yield agrees, f"{figure.says!r} ({figure.cell} in {figure.source}): {verdict}, {value}"


def list_tables() -> Iterator[tuple[str, int, str, str]]:
    """Return page, line, title and command of each table below a command."""
    for page in PAGES:
        for section in sections(page):
            for table in section.tables():
                found = MEASURING.findall(table.text)
                commands = [" ".join(command.split()) for command in found]
                if commands:
                    name = page.relative_to(ROOT).as_posix()
                    yield name, table.line, section.title, commands[-1]


def number(text: str) -> float:
    """Return a figure as a number, in SI units."""
    value, _, unit = text.partition(" ")
    return float(value.replace(",", "")) * UNITS.get(unit, 1.0)


def _agrees(said: str, value: float) -> bool:
    """Whether a value, rounded as the figure is, is the figure."""
    digits, _, unit = said.partition(" ")
    scale = UNITS.get(unit, 1.0)
    places = len(digits.partition(".")[2])
    return math.isclose(float(digits.replace(",", "")), round(value / scale, places), abs_tol=1e-9)


def _stands_in(figure: str, text: str) -> bool:
    return re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d]|[.,]\d)", text) is not None


def _is(row: Row, wanted: FromReport) -> bool:
    names = (row.measure, row.subset) == (wanted.measure, wanted.subset)
    return names and fnmatchcase(row.model, wanted.model)


def main(arguments: Sequence[str] | None = None) -> int:
    """List and check; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(prog="scripts/check-figures", description=__doc__)
    parser.add_argument("--tables", action="store_true", help="list every page's tables, too")
    parser.add_argument("--report", type=Path, nargs="+", default=(), metavar="FILE.json",
                        help="reports that --json of the commands wrote")  # fmt: skip
    given = parser.parse_args(arguments)
    figures = read_figures()
    for figure in figures:
        say(out, f"README.md {figure.says}: {figure.cell} in {figure.source}, {figure.command}")
    if given.tables:
        for page, line, title, command in list_tables():
            say(out, f"{page}:{line} {title}: {command}")
    problems = [*check_pages(figures), *check_conditions()]
    try:
        reports = [read_report(path) for path in given.report]
    except InputError as error:
        problems.append(str(error))
        reports = []
    for agrees, verdict in check_reports(figures, reports):
        say(out, verdict)
        if not agrees:
            problems.append(verdict)
    for problem in problems:
        say(err, f"error: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
