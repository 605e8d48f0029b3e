"""The figures of README's first screen: time to the first mask and three answers, memory, size.

They come from `samclip-bench latency` and `samclip-bench memory`, each a separate process, and
from the sizes of the files that are installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from samclip.benchmarks.formats import mebibytes, seconds
from samclip.benchmarks.html.page import BUSY
from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS
from samclip.benchmarks.latency.startup import FIRST_MASK
from samclip.benchmarks.records import Report
from samclip.benchmarks.report import read_report
from samclip.cli.terminal import out, say

ROOT = Path(__file__).resolve().parent.parent
BENCH = "from samclip.commands import bench; bench()"
LATENCY = ("latency", "--backend", "onnxruntime", "--no-refine", "--no-throughput", "--no-energy")
MEMORY = ("memory", "--backend", "onnxruntime")

Line = tuple[str, str, str]  # what, the figure, the command


def run(arguments: Sequence[str], folder: Path) -> Report:
    """Run `samclip-bench` and read its report; its tables are left out."""
    path = folder / f"{arguments[0]}.json"
    command = [sys.executable, "-c", BENCH, *arguments, "--json", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return read_report(path)


def timed_lines(report: Report, command: str) -> Iterator[Line]:
    """Return the medians of a new process's first mask, and of a photo's three answers."""
    for state, name in (("cold", FIRST_MASK), ("warm", ALL_STEPS)):
        (found,) = [t for t in report.timings if (t.state, t.name) == (state, name)]
        ends = f"{seconds(min(found.samples))} - {seconds(max(found.samples))}"
        figure = f"{seconds(median(found.samples))} ({ends}, n = {len(found.samples)})"
        yield name, figure, command


def memory_lines(report: Report, command: str) -> Iterator[Line]:
    """Return the highest memory of a process up to a mask, and up to all answers."""
    yield "memory up to the first mask", mebibytes(_peak(report, "segment a point")), command
    highest = max(use.peak_rss for use in report.memory)
    yield "memory, highest of all stages", mebibytes(highest), command


def _peak(report: Report, stage: str) -> int:
    return next(use.peak_rss for use in report.memory if use.stage == stage)


def installed_bytes(name: str = "samclip") -> dict[str, int]:
    """Add up the files of a distribution and of all that it requires, by distribution.

    samclip itself is counted from its folder, because an editable install lists no files.
    Requirements of extras are left out.
    """
    found: dict[str, int] = {}
    waiting = [name]
    while waiting:
        key = canonicalize_name(waiting.pop())
        if key in found:
            continue
        try:
            one = distribution(key)
        except PackageNotFoundError:  # for another system or Python
            continue
        files = (Path(str(one.locate_file(file))) for file in one.files or ())
        if key == "samclip":
            files = (
                file for file in (ROOT / "samclip").rglob("*") if "__pycache__" not in file.parts
            )
        found[key] = sum(file.stat().st_size for file in files if file.is_file())
        for line in one.requires or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                waiting.append(required.name)
    return found


def size_lines(command: str) -> Iterator[Line]:
    """Return the installed size of samclip with its weights, and of all that it requires."""
    found = installed_bytes()
    yield "samclip installed, weights included", f"{found['samclip'] / 1e6:,.0f} MB", command
    what = f"with the {len(found) - 1} packages that it requires"
    yield what, f"{sum(found.values()) / 1e6:,.0f} MB", command


def conditions(reports: Sequence[Report]) -> str:
    """Describe machine, versions and load in one sentence; a busy machine is said."""
    last = reports[-1]
    machine, load = last.machine, max(r.threads.load[0] if r.threads.load else 0 for r in reports)
    packages = ", ".join(f"{n} {machine.packages[n]}" for n in ("numpy", "onnxruntime"))
    # the benchmark itself keeps all cores busy; more is other work
    busy = f"BUSY, load {load:.1f}" if load > machine.usable_cores + BUSY else f"load {load:.1f}"
    return (
        f"{machine.usable_cores} cores of {machine.cpu}, {machine.system}, Python "
        f"{machine.python}, samclip {last.samclip}, {packages}; {busy}; {last.date[:10]}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="scripts/quiet-figures", description=__doc__)
    parser.add_argument("--repeats", default="8", help="rounds of photos")
    parser.add_argument("--cold", default="5", help="new processes")
    given = parser.parse_args(arguments)
    latency = (*LATENCY, "--repeats", given.repeats, "--cold", given.cold)
    with tempfile.TemporaryDirectory() as folder:
        reports = [run(latency, Path(folder)), run(MEMORY, Path(folder))]
    lines = [
        *timed_lines(reports[0], f"samclip-bench {' '.join(latency)}"),
        *memory_lines(reports[1], f"samclip-bench {' '.join(MEMORY)}"),
        *size_lines("scripts/quiet-figures"),
    ]
    say(out, f"{conditions(reports)}\n\n| what | figure | command |\n|---|---|---|")
    for what, figure, command in lines:
        say(out, f"| {what} | {figure} | `{command}` |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
