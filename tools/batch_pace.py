"""Images per second of `samclip batch`: one process against workers of Ray, in turn.

`python -m tools.batch_pace photos/ --workers 2` answers the same images by each, `--rounds` times.
The pace is counted from the first rows that come, so that loading models and starting Ray is left
out; the seconds of the whole job have both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from samclip.batch.items import Item
from samclip.batch.job import InProcess, Job, Runner, run_job, with_options
from samclip.batch.packages import has_ray
from samclip.batch.questions import Question
from samclip.batch.ray_pool import RayPool
from samclip.batch.sources import Listing, list_items
from samclip.cli.tables import make_table
from samclip.cli.terminal import out

NAMES = ("a person", "a car", "an animal", "food", "a room", "a street")


@dataclass
class Timed:
    """A runner whose tables are counted with their times."""

    runner: Runner
    counts: list[tuple[float, int]] = field(default_factory=list)

    def run(self, job: Job, listing: Listing, items: Sequence[Item]) -> Iterator[Any]:
        """Yield the tables of the runner."""
        for table in self.runner.run(job, listing, items):
            self.counts.append((time.monotonic(), len(table)))
            yield table

    @property
    def pace(self) -> float:
        """Images per second after the first rows."""
        (first, _), (last, _) = self.counts[0], self.counts[-1]
        return sum(count for _, count in self.counts[1:]) / max(last - first, 1e-9)


def measure(job: Job, listing: Listing, runner: Runner) -> tuple[float, float]:
    """Run a job into a folder that is removed; return images per second, and seconds in all."""
    timed = Timed(runner)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run_job(job, listing, Path(folder), timed)
    return timed.pace, time.monotonic() - begun


def main() -> None:
    """Print the paces and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--bundle")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--images", type=int, default=64, help="at most so many of the sources")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if not has_ray():
        parser.error("Ray is not installed: pip install 'samclip[ray]'")
    found = list_items(given.sources)
    listing = Listing(found.items[: given.images], found.column)
    least = 2 * given.workers * given.batch_size
    if len(listing.items) < least:
        parser.error(f"{len(listing.items)} images; at least {least} are needed for a pace")
    job = Job(Question(names=NAMES), {"name_or_path": given.bundle})
    one, many = "one process", f"{given.workers} workers of Ray"
    results: dict[str, list[tuple[float, float]]] = {one: [], many: []}
    for _ in range(given.rounds):
        streams = with_options(job, streams=1)
        results[one].append(measure(streams, listing, InProcess()))
        pool = RayPool(given.workers, batch_size=given.batch_size)
        results[many].append(measure(job, listing, pool))
    out.print(f"{len(listing.items)} images, {given.rounds} rounds in turn; medians")
    out.print(make_rows(results, one))


def make_rows(results: dict[str, list[tuple[float, float]]], base: str) -> Table:
    """Return a row for each runner: its medians, and the ratio of its pace to that of `base`."""
    table = make_table("who", "images/s", "ratio", "seconds in all")
    reference = median(pace for pace, _ in results[base])
    for who, measured in results.items():
        pace, seconds = (median(column) for column in zip(*measured, strict=True))
        table.add_row(who, f"{pace:.2f}", f"{pace / reference:.2f}", f"{seconds:.0f}")
    return table


if __name__ == "__main__":
    main()
