"""Three ways to answer three tasks on a photo, timed in turn.

*merged*: one encoder pass, then all three tasks. *SAM + CLIP at 224 px*: a second model names the
whole photo, and there is no semantic map. *SAM + dense CLIP*: the second model makes one more large
pass, which gives the map too. All ways segment the same points.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.amortised.second_model import SecondModel, classify_whole, name_all
from samclip.benchmarks.latency.photo_pipeline import Piece, names_for
from samclip.benchmarks.latency.rounds import RoundLog, Schedule, one_of_each_shape
from samclip.benchmarks.latency.timed import StageClock
from samclip.benchmarks.measurements import Timing
from samclip.errors import UntrainedHeadWarning
from samclip.progress import Progress, track
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import Vocabulary

PROMPTS = (1, 10, 100)
MERGED, WHOLE, DENSE = "merged", "SAM + CLIP at 224 px", "SAM + dense CLIP"
ENCODE, NAMES, MAP = "resize and encode", "classify 20 names", "semantic coarse, 20 names"
SECOND = "CLIP"
Pixels = NDArray[np.uint8]
Seconds = dict[str, float]


@dataclass(frozen=True)
class Models:
    """The models of the ways: `sam` gives masks alone, and may be the merged model again."""

    merged: Model
    sam: Model
    whole: SecondModel
    dense: SecondModel


def measure_ways(
    models: Models, schedule: Schedule, photos: Sequence[Path], progress: Progress
) -> list[Timing]:
    """Time rounds of photos, every way in turn, the order turned round each time."""
    clock = StageClock()
    records = {way: RoundLog() for way in (MERGED, WHOLE, DENSE)}
    names = models.merged.vocabulary(names_for(models.merged))
    (first,) = one_of_each_shape([models.merged], photos)
    for photo in first:
        _round(models, names, load_image(photo), clock, forward=True)
    for number in track(progress, range(schedule.warm_up + schedule.repeats), "rounds"):
        kept = number - schedule.warm_up
        pixels = load_image(photos[kept % len(photos)])
        parts = _round(models, names, pixels, clock, forward=number % 2 == 0)
        if kept >= 0:
            for way, found in parts.items():
                records[way].rounds.append(tuple(_pieces(found)))
    return [
        timing
        for way, record in records.items()
        for timing in record.timings(way, "warm", len(photos))
    ]


def _round(
    models: Models, names: Vocabulary, pixels: Pixels, clock: StageClock, forward: bool
) -> dict[str, Seconds]:
    """Time one photo; SAM's pass and masks are the same for both ways that need them."""
    found: dict[str, Seconds] = {}

    def merged() -> None:
        found[MERGED] = _with_masks(models.merged, pixels, clock, names)

    def apart() -> None:
        sam = _with_masks(models.sam, pixels, clock, None)
        whole = clock.time(lambda: classify_whole(models.whole, pixels)).seconds
        dense = clock.time(lambda: name_all(models.dense, pixels)).seconds
        found[WHOLE], found[DENSE] = {**sam, SECOND: whole}, {**sam, SECOND: dense}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)
        for way in (merged, apart) if forward else (apart, merged):
            way()
    return {way: found[way] for way in (MERGED, WHOLE, DENSE)}


def _with_masks(
    model: Model, pixels: Pixels, clock: StageClock, names: Vocabulary | None
) -> Seconds:
    """Encode, name where there are names, and segment 1, 10 and 100 points, each its own mask."""
    encoded = clock.time(lambda: model.encode(pixels))
    times = {ENCODE: encoded.seconds}
    with encoded.answer as scene:
        for step, work in _tasks(scene, names):
            times[step] = clock.time(work).seconds
    return times


def _tasks(scene: Scene, names: Vocabulary | None) -> Iterator[tuple[str, Callable[[], object]]]:
    if names is not None:
        yield NAMES, lambda: scene.classify(names)
        yield MAP, lambda: scene.semantic(names)
    for count in PROMPTS:
        points = grid(scene.size, count)
        yield _masks(count), lambda points=points: scene.segment(points=points)  # type: ignore[misc]


def _pieces(seconds: Seconds) -> Iterator[Piece]:
    """Return the whole for each number of prompts, and its stages, which add up to it."""
    masks = {_masks(count): count for count in PROMPTS}
    common = {step: time for step, time in seconds.items() if step not in masks}
    for step, count in masks.items():
        whole = pipeline(count)
        parts = {**common, step: seconds[step]}
        yield Piece("pipeline", whole, sum(parts.values()))
        for name, time in parts.items():
            yield Piece("stage", name, time, part_of=whole)


def pipeline(prompts: int) -> str:
    """Return the name of a whole way with this number of prompts."""
    return f"three tasks, {prompts} prompt{'s' if prompts > 1 else ''}"


def grid(size: tuple[int, int], count: int) -> list[list[tuple[float, float]]]:
    """Return `count` prompts of one point, (x, y) in pixels, spread over an image of (h, w)."""
    height, width = size
    columns = int(np.ceil(count**0.5))
    rows = -(-count // columns)
    cells = itertools.islice(itertools.product(range(rows), range(columns)), count)
    return [[((x + 0.5) * width / columns, (y + 0.5) * height / rows)] for y, x in cells]


def _masks(count: int) -> str:
    return f"segment {count} point{'s' if count > 1 else ''}"
