"""Command `samclip-bench shapes`: what further shapes of input cost in accuracy, gain in time."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.accuracy import shapes as accuracy
from samclip.benchmarks.class_names import class_vocabulary
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.data.coco import CocoFolder, read_coco
from samclip.benchmarks.data.image_folder import spread
from samclip.benchmarks.latency import shapes as speed
from samclip.benchmarks.latency.contenders import Contender, Variant, describe_conditions
from samclip.benchmarks.latency.results import make_rows
from samclip.benchmarks.latency.rounds import ORDER, Schedule
from samclip.benchmarks.latency.timed import StageClock, TimedBackend
from samclip.benchmarks.measurements import Measurements, Timing
from samclip.benchmarks.records import Data, Row
from samclip.benchmarks.rows import rows_table
from samclip.benchmarks.scores import Candidate
from samclip.cli import options as shared
from samclip.cli.given_paths import parse_path
from samclip.cli.terminal import err, out, say
from samclip.engines.base import Backend
from samclip.errors import InputError
from samclip.export.precision.gate_tasks import unnameable
from samclip.runtime.bundles.manifest import Manifest

EXAMPLES = """
**Examples:**

- `samclip-bench shapes --bundle my-shapes`

- `samclip-bench shapes path/to/coco --bundle my-shapes --repeats 0 --json shapes.json`

- `samclip-bench shapes --bundle my-shapes --threads 1 --cpu-time`
"""
FEWEST = 2  # rounds, for an interval

Folder = Annotated[
    Path | None,
    typer.Argument(
        parser=parse_path,
        metavar="[FOLDER]",
        show_default="only speed is measured",
        help="Outlined objects in COCO's layout, to compare masks and names on both shapes.",
    ),
]
Repeats = Annotated[
    int,
    typer.Option("--repeats", min=0, metavar="N", help="Rounds of each shape's speed; 0 for none."),
]
CpuTime = Annotated[
    bool,
    typer.Option(
        "--cpu-time",
        help="Time what the process spends on the CPU, for machines on which others work; of "
        "engines on the CPU alone.",
    ),
]
Names = Annotated[
    bool,
    typer.Option("--names/--no-names", help="Name the objects too, where the bundle can."),
]


@benchmark("shapes")
def shapes(
    session: Session,
    *,
    folder: Folder = None,
    bundle: shared.Bundle = None,
    names: Names = True,
    repeats: Repeats = 10,
    warm_up: options.WarmUp = 1,
    cpu_time: CpuTime = False,
    photo: options.Photo = None,
    annotations: options.Annotations = None,
    run: options.ModelOptions,
) -> Outcome:
    """Compare a bundle's further shapes of input with its first one: time, and masks and names.

    Each picture is encoded on its own shape, and on the first shape alone, in the same run: the
    ratio is what a shape gains. With a FOLDER of labelled photos, the mIoU of boxes and points and
    the top-1 of names are compared object by object, with the interval of the difference, and it
    is said whether a loss above 0.005 is excluded.
    """
    if folder is None and not repeats:
        raise InputError("--repeats 0 without a FOLDER leaves nothing to measure. Give one.")
    coco = None if folder is None else read_coco(folder, annotations)
    now = time.process_time if cpu_time else time.perf_counter

    def timed(backend: Backend, _: StageClock) -> TimedBackend:
        return TimedBackend(backend, StageClock(now))

    variant = run.variant(bundle)
    (shaped,) = session.open_all([variant], timed)
    (first,) = session.open_all([_first_of(shaped, variant)], timed)
    _check_clock(shaped, cpu_time)
    timings: list[Timing] = []
    protocol: tuple[str, ...] = ()
    rows: list[Row] = []
    chosen, data = options.choose_photo(photo)
    if repeats:
        schedule = Schedule(0, warm_up, max(repeats, FEWEST))
        timings = speed.measure_shapes(shaped, first, schedule, chosen, session.progress)
        protocol = (*speed.PROTOCOL, *([speed.CPU_TIME] if cpu_time else []))
    if coco is not None:
        found, data = _compare(session, coco, (shaped, first), names, run.limit)
        session.show(rows_table(found))
        for line, holds in accuracy.verdicts(found):
            say(out, line, style="green" if holds else "yellow")
        protocol, rows = (*protocol, *accuracy.PROTOCOL), found
    measured = Measurements(timings=tuple(timings), conditions=describe_conditions(ORDER))
    return Outcome(data, protocol, (*make_rows(timings), *rows), measured)


def _first_of(shaped: Contender, variant: Variant) -> Variant:
    """Return the same bundle with its first shape alone; raises InputError where that is all."""
    manifest: Manifest = shaped.model.manifest
    canvases = shaped.model.bundle.canvases
    height, width = manifest.canvases[0]
    if len({*canvases, (height, width)}) == 1:
        raise InputError(
            f"the bundle {manifest.name!r} has one shape of input, {width} x {height}: there is "
            "nothing to compare. Export one with several: samclip-export --aspects 1:1,4:3"
        )
    return replace(variant, aspects=(_aspect(width, height),))


def _aspect(width: int, height: int) -> str:
    """Write an aspect in its lowest terms: 4:3."""
    common = math.gcd(width, height)
    return f"{width // common}:{height // common}"


def _check_clock(shaped: Contender, cpu_time: bool) -> None:
    if cpu_time and not shaped.backend.on_host:
        raise InputError(
            f"--cpu-time is for engines on the CPU, and {shaped.backend.name} computes elsewhere. "
            "Leave it out."
        )


def _compare(
    session: Session,
    coco: CocoFolder,
    models: tuple[Contender, Contender],
    names: bool,
    limit: int | None,
) -> tuple[list[Row], Data]:
    """Compare masks and names on the photos that have another shape than the first."""
    shaped, first = (Candidate(one.name, one.model) for one in models)
    photos = accuracy.other_photos(shaped, coco.photos)
    if not photos:
        raise InputError(
            f"all {len(coco.photos)} photos of {coco.path} have the first shape of the bundle, for "
            "which nothing changes. Give photos of other shapes."
        )
    chosen = spread(photos, limit)
    reason = unnameable(shaped.model.manifest) if names else None
    if reason is not None:
        say(err, reason)
    nameable = names and reason is None
    vocabulary = class_vocabulary(shaped.model, coco.names, {}) if nameable else None
    rows = accuracy.evaluate_shapes(shaped, first, chosen, vocabulary, session.progress)
    return rows, Data.of(coco.path, coco.layout, chosen, coco.photos, coco.left_out)
