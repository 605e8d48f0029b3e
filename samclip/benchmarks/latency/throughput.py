"""Many photos after each other: one at a time, and read ahead as `Model.encode_all` does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.figures import paired_ratio
from samclip.benchmarks.latency.timing import Timing
from samclip.benchmarks.latency.walk import names_for, without_untrained_warning
from samclip.benchmarks.progress import Track
from samclip.benchmarks.rows import Row, make_row
from samclip.runtime.model import Model
from samclip.runtime.scene import Scene
from samclip.runtime.texts.vocabulary import Vocabulary

PHOTOS = 8  # of one sample: reading ahead gains nothing on the first
ONE_BY_ONE, AHEAD = "photos one at a time", "photos by encode_all"
PROTOCOL = (
    f"'{ONE_BY_ONE}' and '{AHEAD}': {PHOTOS} photo files, each encoded, classified among 20 names "
    "and segmented at one point; the second reads and resizes a photo while the one before is "
    "computed. Both in turn; their ratio is of throughputs."
)

Work = Callable[[], None]


def measure_throughput(
    contenders: Sequence[Contender], photos: Sequence[Path], repeats: int, track: Track
) -> list[Timing]:
    """Time both ways of every model in turn, after one round that is not kept."""
    files = list(itertools.islice(itertools.cycle(photos), PHOTOS))
    works = {
        (contender.name, way): work
        for contender in contenders
        for way, work in _ways(contender.model, files).items()
    }
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for number in track(range(repeats + 1), "many photos"):
        for key in works if number % 2 else reversed(works):
            start = time.perf_counter()
            works[key]()
            if number:
                samples[key].append(time.perf_counter() - start)
    return [
        Timing(model=model, kind="pipeline", name=way, samples=tuple(taken), items=PHOTOS)
        for (model, way), taken in samples.items()
    ]


def throughput_rows(timings: Sequence[Timing]) -> tuple[Row, ...]:
    """Divide the throughput with photos read ahead by that of one at a time."""
    found = {(timing.model, timing.name): timing.samples for timing in timings}
    models = dict.fromkeys(timing.model for timing in timings)
    return tuple(
        make_row(
            model,
            f"throughput: {AHEAD} / {ONE_BY_ONE}",
            "warm",
            paired_ratio(found[model, ONE_BY_ONE], found[model, AHEAD], PHOTOS),
            "ratio",
        )
        for model in models
        if (model, AHEAD) in found
    )


def _ways(model: Model, files: Sequence[Path]) -> dict[str, Work]:
    with without_untrained_warning():
        names = model.vocabulary(names_for(model)) if names_for(model) else None

    def one_by_one() -> None:
        with without_untrained_warning():
            for file in files:
                _answer(model.encode(file), names)

    def ahead() -> None:
        with without_untrained_warning():
            for scene in model.encode_all(files):
                _answer(scene, names)

    return {ONE_BY_ONE: one_by_one, AHEAD: ahead}


def _answer(scene: Scene, names: Vocabulary | None) -> None:
    with scene:
        if names is not None:
            scene.classify(names)
        height, width = scene.size
        scene.segment(points=[(width / 2, height / 2)])
