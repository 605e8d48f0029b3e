"""Commands `samclip-bench latency` and `samclip-bench memory`: time and memory of every stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.latency.contenders import (
    Contender,
    describe_conditions,
    describe_settings,
)
from samclip.benchmarks.latency.energy import PROTOCOL as ENERGY_PROTOCOL
from samclip.benchmarks.latency.energy import describe_energy, energy_row, measure_energy
from samclip.benchmarks.latency.photo_pipeline import Workload
from samclip.benchmarks.latency.results import PROTOCOL, make_rows, timing_tables, warn_of_noise
from samclip.benchmarks.latency.rounds import (
    FEWEST,
    ORDER,
    Schedule,
    measure_cold,
    measure_warm,
)
from samclip.benchmarks.latency.startup import measure_processes
from samclip.benchmarks.latency.throughput import PROTOCOL as THROUGHPUT_PROTOCOL
from samclip.benchmarks.latency.throughput import (
    load_streaming,
    measure_throughput,
    measure_transfers,
    throughput_rows,
)
from samclip.benchmarks.latency.timed import StageClock, TimedBackend
from samclip.benchmarks.measurements import Measurements, Timing
from samclip.benchmarks.memory.stages import Shapes, measure_memory
from samclip.benchmarks.memory.usage import PROTOCOL as MEMORY_PROTOCOL
from samclip.benchmarks.memory.usage import make_memory_rows, memory_tables
from samclip.benchmarks.records import Data
from samclip.cli.terminal import err, out, say
from samclip.engines.base import Backend
from samclip.errors import BackendUnavailableError, InputError

LATENCY_EXAMPLES = """
**Examples:**

- `samclip-bench latency my-bundle --json latency.json`

- `samclip-bench latency my-bundle --backend onnxruntime --backend openvino --precision fp32
  --precision int8`

- `samclip-bench latency --quick`
"""

PROCESSOR_TIME = (
    "Times are those that all threads of the process spent on the processor (--processor-time): "
    "other programs change them little, and threads that spin while they wait count as busy."
)
QUICK = Schedule(cold=0, warm_up=1, repeats=6, seconds=6.0)
QUICK_PHOTOS, FEWEST_COPIES = 2, 20
_HOW_OFTEN, _WHAT = "How often", "What"

Everything = Annotated[
    bool,
    typer.Option("--everything", rich_help_panel=_WHAT, help="Time 1,024 points per photo too."),
]
Refine = Annotated[
    bool,
    typer.Option("--refine/--no-refine", rich_help_panel=_WHAT, help="Time refined semantic maps."),
]
Throughput = Annotated[
    bool,
    typer.Option(
        "--throughput/--no-throughput",
        rich_help_panel=_WHAT,
        help="Time eight photos after each other, too.",
    ),
]
Energy = Annotated[
    bool,
    typer.Option(
        "--energy/--no-energy", rich_help_panel=_WHAT, help="Read a sensor of energy, if any."
    ),
]
Cold = Annotated[
    int,
    typer.Option(
        "--cold",
        min=0,
        metavar="N",
        rich_help_panel=_HOW_OFTEN,
        help="Fresh models, and new processes, for what the first answer takes.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        min=0,
        metavar="S",
        rich_help_panel=_HOW_OFTEN,
        show_default="no limit",
        help="Begin no further round after so long; two are kept in any case.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        rich_help_panel=_HOW_OFTEN,
        help="Some 15 seconds: few rounds, nothing cold, none of the longer tasks.",
    ),
]


ProcessorTime = Annotated[
    bool,
    typer.Option(
        "--processor-time",
        rich_help_panel=_HOW_OFTEN,
        help="Time what the process spends on the processor, for a machine on which other programs "
        "run. Nothing cold, no throughput and no energy is measured then.",
    ),
]


@benchmark("latency")
def latency(
    session: Session,
    *,
    models: options.VariantOptions,
    source: options.PhotoOptions,
    repeats: options.Repeats = 20,
    warm_up: options.WarmUp = 2,
    cold: Cold = 3,
    seconds: Seconds = None,
    everything: Everything = False,
    refine: Refine = True,
    throughput: Throughput = True,
    energy: Energy = True,
    quick: Quick = False,
    processor_time: ProcessorTime = False,
    report: options.ReportOptions,  # noqa: ARG001 - the harness reads it
) -> Outcome:
    """Time bundles on photos, stage by stage and task by task, cold and warm.

    Every bundle is run on every backend in every precision that is named, in turn, photo by
    photo, and the ratios to the first are given: on a busy machine they hold where seconds do
    not. Nothing is clipped; --json has every sample.
    """
    schedule = QUICK if quick else Schedule(cold, warm_up, repeats, seconds)
    if processor_time:
        schedule, throughput, energy = replace(schedule, cold=0), False, False
    workload = Workload(not quick, refine and not quick, not quick, everything)
    cache, progress = session.make_folder(), session.progress
    photos, data = source.choose(QUICK_PHOTOS if quick else None)
    contenders = session.open_all(
        models.variants(), _on_processor if processor_time else TimedBackend
    )
    timings = measure_processes(contenders, schedule.cold, photos, progress)
    timings += measure_cold(contenders, schedule, photos, cache, progress)
    timings += measure_warm(contenders, schedule, photos, workload, progress)
    if throughput and not quick:
        few = max(FEWEST, schedule.repeats // 4)
        timings += measure_throughput(contenders, photos, few, progress, load_streaming)
    timings += transfers(contenders, max(schedule.repeats, FEWEST_COPIES))
    session.show(*timing_tables(timings, "cold"), *timing_tables(timings, "warm"))
    for line in warn_of_noise(timings):
        say(err, f"warning: {line}", style="yellow")
    joules = measure_energy(contenders, photos, progress) if energy and not quick else ()
    for found in joules:
        say(out, describe_energy(found))
    measured = Measurements(
        timings=tuple(timings),
        energy=joules,
        settings=tuple(describe_settings(c, schedule.warm_up, timings) for c in contenders),
        conditions=describe_conditions(ORDER),
    )
    rows = (*make_rows(timings), *throughput_rows(timings), *map(energy_row, joules))
    protocol = (
        *([PROCESSOR_TIME] if processor_time else ()),
        *PROTOCOL,
        *([THROUGHPUT_PROTOCOL] if throughput and not quick else ()),
        *([ENERGY_PROTOCOL] if joules else ()),
    )
    return Outcome(data, protocol, rows, measured)


def _on_processor(backend: Backend, clock: StageClock) -> TimedBackend:  # noqa: ARG001
    """Return a backend whose clock counts the time of the process on the processor."""
    return TimedBackend(backend, StageClock(time.process_time))


def transfers(contenders: Sequence[Contender], repeats: int) -> list[Timing]:
    """Time copies to the GPU, or say on stderr why that cannot be done."""
    try:
        return measure_transfers(contenders, repeats)
    except BackendUnavailableError as error:
        say(err, f"the copy of inputs to the GPU is not timed apart: {error}")
        return []


MEMORY_EXAMPLES = """
**Examples:**

- `samclip-bench memory my-bundle --json memory.json`

- `samclip-bench memory my-bundle --backend onnxruntime --backend openvino --everything`

- `samclip-bench memory my-shapes --shapes --max-shapes 2`
"""

MemoryEverything = Annotated[
    bool, typer.Option("--everything", help="Measure 1,024 points too, which takes long.")
]
MemoryRepeats = Annotated[
    int, typer.Option("--repeats", min=1, metavar="N", help="Processes for each stage.")
]
MemoryShapes = Annotated[
    bool,
    typer.Option(
        "--shapes", help="Measure a mask on each of the bundle's shapes of input, and no names."
    ),
]
MaxShapes = Annotated[
    int | None,
    typer.Option(
        "--max-shapes",
        min=1,
        metavar="N",
        show_default="all",
        help="With --shapes: how many shapes stay ready, as max_shapes= of samclip.load.",
    ),
]


@benchmark("memory")
def memory(
    session: Session,
    *,
    models: options.VariantOptions,
    photos: options.Photos = None,
    repeats: MemoryRepeats = 2,
    everything: MemoryEverything = False,
    shapes: MemoryShapes = False,
    max_shapes: MaxShapes = None,
    report: options.ReportOptions,  # noqa: ARG001 - the harness reads it
) -> Outcome:
    """Measure the peak memory of fresh processes, one for each stage, and bytes on disk.

    On a GPU also what the process holds there, which needs nvidia-ml-py.
    """
    if max_shapes is not None and not shapes:
        raise InputError("--max-shapes bounds what --shapes measures. Give both, or neither.")
    if everything and shapes:
        raise InputError("--everything is measured on the first shape. Leave out --shapes.")
    listing = options.find_photos(photos)
    chosen = listing.paths[:1]
    contenders = session.open_all(models.variants(), TimedBackend)
    for contender in contenders:
        contender.model.close()  # their memory would be missing on the device
    uses = measure_memory(
        contenders,
        chosen[0],
        session.progress,
        repeats=repeats,
        everything=everything,
        shapes=Shapes(max_shapes) if shapes else None,
    )
    session.show(*memory_tables(uses))
    settings = tuple(describe_settings(contender, 0, []) for contender in contenders)
    data = Data.of(listing.folder, "photos", chosen, chosen)
    measured = Measurements(memory=uses, settings=settings)
    return Outcome(data, MEMORY_PROTOCOL, make_memory_rows(uses), measured)
