"""Rounds of measurement: every model in turn on the same photo, the order reversed each time.

On a machine with other work, speed drifts within seconds: what is measured a minute apart cannot
be compared. Two models that are measured within one round can, and their ratio holds where their
seconds do not.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from samclip.benchmarks.latency.contenders import Contender, open_variant
from samclip.benchmarks.latency.photo_pipeline import Piece, Walk, Workload
from samclip.benchmarks.latency.timed import TimedBackend
from samclip.benchmarks.measurements import State, Timing
from samclip.progress import Progress, track
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import Letterbox, load_image

ORDER = "in turn, photo by photo; the order of the models is turned round after each photo"
LOAD = "load bundle, engine of the encoder"
FEWEST = 2


@dataclass(frozen=True)
class Schedule:
    """Numbers of measurements: `cold` fresh models, `warm_up` rounds not kept, `repeats` that are.

    After `seconds` no further round is begun, but `FEWEST` are kept in any case; None: no limit.
    """

    cold: int = 3
    warm_up: int = 2
    repeats: int = 20
    seconds: float | None = None

    def is_over(self, passed: float) -> bool:
        """Whether no further round is begun once so many seconds have passed."""
        return self.seconds is not None and passed > self.seconds


@dataclass
class RoundLog:
    """The pieces of every round of one model, in order."""

    rounds: list[tuple[Piece, ...]] = field(default_factory=list)

    def timings(self, model: str, state: State, photos: int) -> Iterator[Timing]:
        """Return a timing for each name; a stage that a photo did without took 0 seconds."""
        seconds = [{_key(piece): piece.seconds for piece in pieces} for pieces in self.rounds]
        known = {_key(piece): piece for pieces in self.rounds for piece in pieces}
        for key, piece in known.items():
            yield Timing(
                model=model,
                kind=piece.kind,
                name=piece.name,
                state=state,
                samples=tuple(found.get(key, 0.0) for found in seconds),
                photos=photos,
                items=piece.items,
                item=piece.item,
                part_of=piece.part_of,
            )


def _key(piece: Piece) -> tuple[str, str, str | None]:
    return piece.kind, piece.name, piece.part_of


def measure_cold(
    contenders: Sequence[Contender],
    schedule: Schedule,
    photos: Sequence[Path],
    cache: Path,
    progress: Progress,
) -> list[Timing]:
    """Time the first photo of fresh models, with all that is loaded on first use.

    The process is not new, and the bundle's files are likely in the system's cache.
    """
    records = [RoundLog() for _ in contenders]
    for number in track(progress, range(schedule.cold), "fresh models"):
        for place in turn(len(contenders), number):
            folder = cache / f"cold-{number}-{place}"
            pieces = _first_photo(contenders[place], photos[number % len(photos)], folder)
            records[place].rounds.append(pieces)
    return to_timings(contenders, records, "cold", len(photos))


def measure_warm(
    contenders: Sequence[Contender],
    schedule: Schedule,
    photos: Sequence[Path],
    workload: Workload,
    progress: Progress,
) -> list[Timing]:
    """Time rounds of photos after the warm-up, every model in turn."""
    walks = [Walk(contender, workload) for contender in contenders]
    firsts = one_of_each_shape([contender.model for contender in contenders], photos)
    for walk, first in zip(walks, firsts, strict=True):
        walk.prepare()
        for photo in first:
            walk.run(photo)
    records = [RoundLog() for _ in contenders]
    start = time.monotonic()
    for number in track(progress, range(schedule.warm_up + schedule.repeats), "rounds"):
        kept = number - schedule.warm_up
        if kept >= FEWEST and schedule.is_over(time.monotonic() - start):
            break
        for place in turn(len(contenders), number):
            pieces = walks[place].run(photos[kept % len(photos)])
            if kept >= 0:
                records[place].rounds.append(pieces)
    return to_timings(contenders, records, "warm", len(photos))


def one_of_each_shape(models: Sequence[Model], photos: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Return for each model a photo for each of its shapes of input that photos are encoded on.

    The first photo of a shape makes its graphs ready, which belongs to no warm round. Empty for a
    model of one shape. A photo is decoded once for all models.
    """

    @functools.cache
    def size_of(photo: Path) -> tuple[int, int]:
        height, width, _ = load_image(photo).shape  # of the photo turned as its file says
        return height, width

    def chosen(model: Model) -> tuple[Path, ...]:
        side, canvases = model.manifest.preprocessing.image_size, model.bundle.canvases
        if len(canvases) == 1:
            return ()
        found = {Letterbox.choose(size_of(photo), side, canvases).canvas: photo for photo in photos}
        return tuple(found.values())

    return [chosen(model) for model in models]


def _first_photo(contender: Contender, photo: Path, cache: Path) -> tuple[Piece, ...]:
    start = time.perf_counter()
    model, backend = open_variant(contender.variant, cache, TimedBackend)
    load = Piece("stage", LOAD, time.perf_counter() - start)
    with model:
        fresh = replace(contender, model=model, backend=backend)
        walk = Walk(fresh, Workload(many=False, refined=False, text=False))
        return (load, *walk.prepare(), *walk.run(photo))


def turn(count: int, number: int) -> Sequence[int]:
    """Return the order of the models in one round."""
    return range(count) if number % 2 == 0 else range(count - 1, -1, -1)


def to_timings(
    contenders: Sequence[Contender], records: Sequence[RoundLog], state: State, photos: int
) -> list[Timing]:
    """Return the timings of all models, one model after the other."""
    return [
        timing
        for contender, record in zip(contenders, records, strict=True)
        for timing in record.timings(contender.name, state, photos)
    ]
