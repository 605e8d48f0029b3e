"""A process that uses a model for a long time; prints its memory as a table, then as JSON.

`python soak_process.py BUNDLE BACKEND CALLS [WARM_UP]`. The sizes of photos and the numbers of
prompts keep changing, many names never come again, and scenes live for a while.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import samclip

WARM_UP = 500  # calls
ROWS = 20  # of the table
SCENES = 4  # alive at the same time
MOST_PIXELS = 400  # of a photo's side
GRID = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
KINDS: dict[str, Callable[[samclip.Scene, random.Random, list[str]], object]] = {
    "classify": lambda s, r, names: s.classify(names),
    "points": lambda s, r, names: s.segment(points=points(s, r), multimask=r.random() < 0.5),
    "boxes": lambda s, r, names: s.segment(boxes=boxes(s, r), names=names),
    "semantic": lambda s, r, names: s.semantic(names, refine=r.random() < 0.2),
    "everything": lambda s, r, names: s.everything(names, **GRID),
}
WEIGHTS = (6, 6, 3, 2, 1)  # relative frequency of each kind


def rss() -> float:
    """Return the memory of this process that is in RAM, in MB of 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def photo(rng: random.Random) -> NDArray[np.uint8]:
    """Make a photo of any shape up to the limit, one colour with a square: HWC uint8 RGB."""
    height, width = rng.randint(1, MOST_PIXELS), rng.randint(1, MOST_PIXELS)
    picture = np.full((height, width, 3), [rng.randrange(256) for _ in range(3)], np.uint8)
    picture[height // 4 : height // 2, width // 4 : width // 2] = rng.randrange(256)
    return picture


def points(scene: samclip.Scene, rng: random.Random) -> list[tuple[float, float]]:
    height, width = scene.size
    return [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(rng.randint(1, 6))]


def boxes(scene: samclip.Scene, rng: random.Random) -> list[tuple[float, float, float, float]]:
    height, width = scene.size
    ends = [(rng.uniform(0.5, 1), rng.uniform(0.5, 1)) for _ in range(rng.randint(1, 8))]
    return [(0, 0, x * width, y * height) for x, y in ends]


def vocabulary(rng: random.Random, call: int) -> list[str]:
    """Return three names that come again and again, and for every third call one that is new."""
    known = [f"name {rng.randrange(50)}" for _ in range(3)]
    return [*known, f"name of call {call}"] if call % 3 == 0 else known


@dataclass
class Row:
    """A line of the table: calls so far, seconds, MB in RAM."""

    calls: int
    seconds: float
    rss: float


def soak(model: samclip.Model, calls: int, warm_up: int) -> Iterator[Row]:
    """Make `calls` calls after those of the warm-up; yield a row after it and `ROWS` more."""
    rng = random.Random(0)
    began = time.monotonic()
    scenes = [model.encode(photo(rng)) for _ in range(SCENES)]
    for call in range(1, warm_up + calls + 1):
        place = rng.randrange(SCENES)
        if rng.random() < 0.1:
            scenes[place].close()
            scenes[place] = model.encode(photo(rng))
        (kind,) = rng.choices(list(KINDS), WEIGHTS)
        KINDS[kind](scenes[place], rng, vocabulary(rng, call))
        if call >= warm_up and (call - warm_up) % max(1, calls // ROWS) == 0:
            yield Row(call - warm_up, time.monotonic() - began, rss())


def report(rows: Iterable[Row]) -> None:
    """Print each row as it comes with its growth since the first one, then the growth as JSON."""
    seen: list[Row] = []
    print("   calls  seconds   RSS MB  growth MB", flush=True)
    for row in rows:
        seen.append(row)
        growth = row.rss - seen[0].rss
        print(f"{row.calls:8,} {row.seconds:8,.0f} {row.rss:8.1f} {growth:10.1f}", flush=True)
    growths = [row.rss - seen[0].rss for row in seen]
    print(json.dumps({"calls": seen[-1].calls, "last": growths[-1], "most": max(growths)}))


def main(arguments: Sequence[str]) -> None:
    bundle, backend, calls, *more = arguments
    warm_up = int(more[0]) if more else WARM_UP
    with samclip.load(bundle, backend, threads=2) as model:
        report(soak(model, int(calls), warm_up))


if __name__ == "__main__":
    main(sys.argv[1:])
