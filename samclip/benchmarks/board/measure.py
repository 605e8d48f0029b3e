"""The measurement behind a board record: the harness of `latency` and `memory`, watched.

In this order: the state of the machine; the first calibration loop; rounds of photos, copies and
energy, while a thread reads the state; the second loop; the state again; fresh processes for the
memory, with this process's model closed, since on a Jetson all of them share one memory.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from samclip.benchmarks.board.record import (
    COPY_IN,
    STAGES,
    BoardRecord,
    During,
    Figures,
    GpuHere,
    JetPackHere,
    Noise,
    PlanHere,
    PowerHere,
    Reading,
    Signature,
    Stage,
)
from samclip.benchmarks.board.watch import reader, watching, what_throttled
from samclip.benchmarks.latency.contenders import (
    Contender,
    describe_conditions,
    describe_settings,
)
from samclip.benchmarks.latency.energy import PROTOCOL as ENERGY_PROTOCOL
from samclip.benchmarks.latency.energy import measure_energy
from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS, Walk, Workload, way_of
from samclip.benchmarks.latency.results import PROTOCOL as LATENCY_PROTOCOL
from samclip.benchmarks.latency.rounds import ORDER, Schedule, measure_warm
from samclip.benchmarks.latency.summary import Summary, summarise, summary_of
from samclip.benchmarks.latency.throughput import measure_transfers
from samclip.benchmarks.measurements import Energy, MemoryUse, Timing
from samclip.benchmarks.memory.stages import measure_memory
from samclip.benchmarks.memory.usage import PROTOCOL as MEMORY_PROTOCOL
from samclip.benchmarks.nvml import Nvml, open_nvml
from samclip.benchmarks.report import describe_bundle, describe_machine, installed_versions
from samclip.engines.base import library_version
from samclip.engines.machine.jetson import find_jetson
from samclip.engines.machine.jetson_power import read_governors, read_power
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.engines.plans.library import examine_gpu
from samclip.engines.plans.sidecar import Sidecar
from samclip.engines.plans.store import list_plans, search_folders
from samclip.errors import BackendUnavailableError, CapabilityError
from samclip.progress import Progress, track
from samclip.runtime.plans.state import find_variant
from samclip.version import __version__

LOOP, LOOP_SECONDS, FEWEST = 10, 10.0, 3  # photos of a calibration loop, and one that is not kept
WORKLOAD = Workload(many=False, refined=False, text=False)
# Those of a report are of every machine; these say with what a GPU was driven and read.
PACKAGES = (
    "cuda-python",
    "cuda-bindings",
    "pycuda",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "nvidia-ml-py",
    "jetson-stats",
)
ON_HOST = "the model runs on the CPU"
PROTOCOL = (
    *(
        line
        for line in LATENCY_PROTOCOL
        if line.startswith((f"'{ALL_STEPS}'", "A graph", "The CL"))
    ),
    "'preprocess' resizes and normalises on the host; 'encode', 'head' and 'decode_prompts' are "
    "graphs; 'classify' and 'semantic' compare names and draw the map, the head's graph apart; "
    "'h2d' is the copy of the encoder's input, a part of 'encode'; 'd2h' brings outputs back.",
    f"The calibration loop is the way of one photo to three answers, {LOOP} times, or for "
    f"{LOOP_SECONDS:.0f} s where that takes longer, before all else and after it.",
    "While rounds ran, one thread read the machine's state once a second.",
    ENERGY_PROTOCOL,
    *MEMORY_PROTOCOL,
)


@dataclass(frozen=True)
class Measured:
    """What was measured; fields as in `BoardRecord`."""

    timings: tuple[Timing, ...]
    h2d_reason: str | None
    energy: Energy
    before: Reading
    during: During
    after: Reading
    noise: Noise
    memory: tuple[MemoryUse, ...] = ()


def measure_board(
    contender: Contender,
    photos: Sequence[Path],
    schedule: Schedule,
    progress: Progress,
    *,
    memory: bool = True,
    files: MachineFiles | None = None,
) -> Measured:
    """Measure a model on this machine; closes it at the end.

    `memory`: also of fresh processes. Raises EngineRunError, and errors of the model.
    """
    files = MachineFiles() if files is None else files
    with ExitStack() as held:
        read = reader(files, _open_gpu(held, contender.backend.on_host))
        before = read()
        walk = Walk(contender, WORKLOAD)
        walk.prepare()
        first = _calibrate(walk, photos[0], progress)
        with watching(read) as watch:
            timings = measure_warm([contender], schedule, photos, WORKLOAD, progress)
            copies, h2d_reason = _copies(contender, schedule.repeats)
            (energy,) = measure_energy([contender], photos, progress)
        second = _calibrate(walk, photos[0], progress)
        noise = Noise(
            first=Figures.of(first),
            second=Figures.of(second),
            drift=second.median / first.median,
        )
        measured = Measured(
            (*timings, *copies), h2d_reason, energy, before, watch.during(), read(), noise
        )
    contender.model.close()
    if not memory:
        return measured
    uses = measure_memory([contender], photos[0], progress)
    return replace(measured, memory=uses)


def _open_gpu(held: ExitStack, on_host: bool) -> Nvml | None:
    """Open the GPU that computes; None where none does, or it says nothing of itself."""
    if on_host:
        return None
    try:
        return held.enter_context(open_nvml())
    except CapabilityError:  # no driver, a Jetson, or no nvidia-ml-py: its fields are null
        return None


def _calibrate(walk: Walk, photo: Path, progress: Progress) -> Summary:
    """Take one photo's way again and again, for ten seconds at most; the first is not kept."""
    samples: list[float] = []
    for number in track(progress, range(LOOP + 1), "calibration"):
        if number > FEWEST and sum(samples) > LOOP_SECONDS:
            break
        start = time.perf_counter()
        walk.answer(photo)
        samples.append(time.perf_counter() - start)
    return summarise(samples[1:])


def _copies(contender: Contender, repeats: int) -> tuple[list[Timing], str | None]:
    if contender.backend.on_host:
        return [], ON_HOST
    try:
        return measure_transfers([contender], repeats), None
    except BackendUnavailableError as error:
        return [], str(error)


def make_record(
    contender: Contender,
    measured: Measured,
    schedule: Schedule,
    photos: int,
    *,
    command: str,
    seconds: float,
    idle_memory: int | None,
    signature: Signature,
    files: MachineFiles | None = None,
) -> BoardRecord:
    """Put a record together on this machine, now; arguments as the fields of `BoardRecord`."""
    files = MachineFiles() if files is None else files
    energy = measured.energy
    machine, backend = describe_machine(), contender.backend
    packages = {**machine.packages, **dict(installed_versions(PACKAGES))}
    known = energy.joules is not None and energy.seconds > 0
    return BoardRecord(
        samclip=__version__,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        command=command,
        machine=msgspec.structs.replace(machine, packages=packages),
        gpu=_describe_gpu(),
        jetpack=_describe_jetpack(files),
        power=_describe_power(files),
        bundle=msgspec.structs.replace(
            describe_bundle(
                contender.model, contender.name, "measured", backend.precisions["encoder"]
            ),
            path=None,
        ),
        settings=describe_settings(contender, schedule.warm_up, list(measured.timings)),
        library_version=library_version(backend.inner) or packages.get(backend.name),
        plans=tuple(_describe_plans(contender)),
        photos=photos,
        stages=tuple(make_stages(measured.timings, way_of(contender.model))),
        h2d_reason=measured.h2d_reason,
        watts=(energy.joules or 0.0) / energy.seconds if known else None,
        joules_per_image=energy.per_run,
        energy=energy,
        memory=measured.memory,
        idle_memory=idle_memory,
        before=measured.before,
        during=measured.during,
        after=measured.after,
        throttled=what_throttled(measured.before, measured.during, measured.after),
        noise=measured.noise,
        timings=measured.timings,
        protocol=PROTOCOL,
        signature=signature,
    )


def make_stages(timings: Sequence[Timing], way: str) -> Iterator[Stage]:
    """Return the stages of a photo's way, called `way`; those that do not exist have no figures."""
    parts = {timing.name: timing for timing in timings if timing.part_of == way}
    alone = {timing.name: timing for timing in timings if timing.part_of is None}
    yield Stage(stage="whole", ms=_figures([alone.get(way)]))
    for stage, names in STAGES.items():
        yield Stage(stage=stage, ms=_figures([parts.get(name) for name in names]))
        if stage == "preprocess":
            yield Stage(stage="h2d", ms=_figures([alone.get(COPY_IN)]))


def _figures(timings: Sequence[Timing | None]) -> Figures | None:
    """Sum up timings, sample by sample; None for none."""
    found = [timing for timing in timings if timing is not None]
    if not found:
        return None
    sums = tuple(sum(samples) for samples in zip(*(one.samples for one in found), strict=True))
    return Figures.of(summary_of(msgspec.structs.replace(found[0], samples=sums)))


def _describe_gpu() -> GpuHere | None:
    state = examine_gpu()
    if state.gpu is None:
        return None
    return GpuHere(
        name=state.gpu.name,
        capability=state.gpu.capability,
        processors=state.gpu.processors,
        memory=state.gpu.memory,
        shares_memory=state.gpu.integrated,
        driver=state.driver,
        cuda=state.gpu.cuda,
    )


def _describe_jetpack(files: MachineFiles) -> JetPackHere | None:
    jetson = find_jetson(files)
    if jetson is None:
        return None
    return JetPackHere(
        l4t=jetson.jetpack.l4t,
        jetpack=jetson.jetpack.version,
        tensorrt=jetson.tensorrt.library,
        tensorrt_python=jetson.tensorrt.python,
        container=jetson.container,
    )


def _describe_power(files: MachineFiles) -> PowerHere:
    power = read_power(files)
    return PowerHere(
        mode=None if power.mode is None else power.mode.name,
        mode_number=None if power.mode is None else power.mode.number,
        fastest_mode=None if power.fastest is None else power.fastest.name,
        clocks_pinned=power.pinned,
        clocks=describe_conditions(ORDER, files).clocks,
        governor=read_governors(files),
    )


def _describe_plans(contender: Contender) -> Iterator[PlanHere]:
    """Describe the plans that serve a variant of the bundle on its backend, newest first."""
    bundle, backend = contender.model.bundle, contender.backend.name
    for stored in list_plans(search_folders(str(bundle.path))):
        built = stored.sidecar
        if built is None or built.library != backend:
            continue
        if find_variant(bundle.manifest, built.serves) is not None:
            yield _describe_plan(built)


def _describe_plan(built: Sidecar) -> PlanHere:
    return PlanHere(
        graph=built.graph.name,
        precision=built.graph.precision,
        attention=built.graph.attention,
        library=built.library,
        library_version=built.library_version,
        capabilities=built.target.capabilities,
        gpu=built.target.gpu,
        processors=built.target.processors,
        driver=built.target.driver,
        cuda=built.target.cuda,
        options=built.options,
        axes=built.axes,
        attention_kernels=built.attention_kernels,
        stands_in=None if built.asked is None else built.asked.how,
        build_seconds=built.seconds,
        plan_bytes=built.plan.size,
        gate=built.gate.state,
        gate_reason=built.gate.reason,
        gate_rows=built.gate.rows,
    )
