"""Throughput of many photos, one at a time and on several streams, and the copy of inputs to a GPU.

The copy is a part of the encoder's time, measured separately. It is made as TensorRT's engines make
it: into pinned memory, from there to the device, and waited for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import samclip
from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.photo_pipeline import names_for, without_untrained_warning
from samclip.benchmarks.latency.results import paired_ratio
from samclip.benchmarks.measurements import Timing
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.engines.cuda.device import open_device
from samclip.engines.cuda.driver import CudaDevice, HostArray
from samclip.engines.cuda.memory import DeviceMemory
from samclip.progress import Progress, track
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import Vocabulary

PHOTOS = 8  # of one sample: at its ends not all streams have work
STREAMS = 2
ONE_BY_ONE, AT_ONCE = "photos one at a time", f"photos on {STREAMS} streams"
PROTOCOL = (
    f"'{ONE_BY_ONE}' and '{AT_ONCE}': {PHOTOS} photo files, each encoded, classified among 20 "
    "names and segmented at one point; the second by `answer_all`, each stream on its share of the "
    "cores. Both in turn; their ratio is of throughputs."
)

Work = Callable[[], None]
TRANSFER = "host-to-device copy of the input (within: encoder)"


def measure_throughput(
    contenders: Sequence[Contender],
    photos: Sequence[Path],
    repeats: int,
    progress: Progress,
    open_streaming: Callable[[Contender], Model],
) -> list[Timing]:
    """Time both ways of every model in turn, after one round that is not kept.

    `open_streaming` loads a contender once more, with streams: see `load_streaming`.
    """
    files = list(itertools.islice(itertools.cycle(photos), PHOTOS))
    with ExitStack() as stack:
        works = {
            (contender.name, way): work
            for contender in contenders
            for way, work in _ways(
                contender.model, stack.enter_context(open_streaming(contender)), files
            ).items()
        }
        samples = _run_in_turn(works, repeats, progress)
    return [
        Timing(model=model, kind="pipeline", name=way, samples=tuple(taken), items=PHOTOS)
        for (model, way), taken in samples.items()
    ]


def _run_in_turn(
    works: dict[tuple[str, str], Work], repeats: int, progress: Progress
) -> dict[tuple[str, str], list[float]]:
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for number in track(progress, range(repeats + 1), "many photos"):
        for key in works if number % 2 else reversed(works):
            start = time.perf_counter()
            works[key]()
            if number:
                samples[key].append(time.perf_counter() - start)
    return samples


def throughput_rows(timings: Sequence[Timing]) -> tuple[Row, ...]:
    """Divide the throughput with several photos at once by that of one at a time."""
    found = {(timing.model, timing.name): timing.samples for timing in timings}
    models = dict.fromkeys(timing.model for timing in timings)
    return tuple(
        make_row(
            model,
            f"throughput: {AT_ONCE} / {ONE_BY_ONE}",
            "warm",
            paired_ratio(found[model, ONE_BY_ONE], found[model, AT_ONCE], PHOTOS),
            "ratio",
        )
        for model in models
        if (model, AT_ONCE) in found
    )


def load_streaming(contender: Contender) -> Model:
    """Load what a contender is once more, to work on `STREAMS` photos at once."""
    variant, model = contender.variant, contender.model
    return samclip.load(
        model.bundle.path,
        model.backend,
        precision=variant.precision,
        threads=variant.threads,
        streams=STREAMS,
    )


def _ways(model: Model, streaming: Model, files: Sequence[Path]) -> dict[str, Work]:
    with without_untrained_warning():
        names = model.vocabulary(names_for(model)) if names_for(model) else None

    def one_by_one() -> None:
        with without_untrained_warning():
            for file in files:
                with model.encode(file) as scene:
                    _ask(scene, names)

    def at_once() -> None:
        with without_untrained_warning():
            for _ in streaming.answer_all(files, lambda scene: _ask(scene, names)):
                pass

    return {ONE_BY_ONE: one_by_one, AT_ONCE: at_once}


def _ask(scene: Scene, names: Vocabulary | None) -> None:
    if names is not None:
        scene.classify(names)
    height, width = scene.size
    scene.segment(points=[(width / 2, height / 2)])


def measure_transfers(contenders: Sequence[Contender], repeats: int) -> list[Timing]:
    """Time the copy for each model on a GPU; nothing for those on the host.

    Raises BackendUnavailableError where neither cuda-python nor pycuda is there to copy.
    """
    found = []
    for contender in contenders:
        if not contender.backend.on_host:
            side = contender.model.manifest.preprocessing.image_size
            samples = time_copies(open_device(), (1, 3, side, side), repeats)
            timing = Timing(model=contender.name, kind="stage", name=TRANSFER, samples=samples)
            found.append(timing)
    return found


def time_copies(
    device: CudaDevice, shape: tuple[int, ...], repeats: int, warm_up: int = 3
) -> tuple[float, ...]:
    """Copy a float32 array of `shape` again and again; seconds each. Closes `device`."""
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    flat = array.reshape(-1).view(np.uint8)
    memory = DeviceMemory(device)
    try:
        block, pinned = memory.blocks.take(flat.nbytes), memory.pinned.take(flat.nbytes)
        with device.active(), memory.stream() as stream:
            found = [
                _copy(device, block.memory, pinned.memory[: flat.nbytes], flat, stream)
                for _ in range(warm_up + repeats)
            ]
        memory.blocks.give(block)
        memory.pinned.give(pinned)
    finally:
        memory.close()
    return tuple(found[warm_up:])


def _copy(
    device: CudaDevice, address: int, pinned: HostArray, array: HostArray, stream: int
) -> float:
    start = time.perf_counter()
    pinned[...] = array
    device.to_device(address, pinned, stream)
    device.synchronize(stream)
    return time.perf_counter() - start
