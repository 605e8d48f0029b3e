"""Time of the encoder, and of an encoding with one box, on each shape of input and on the first.

Both are measured in turn on the same picture, which fills the shape; the first shape pads it. The
ratios are what a shape gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.photo_pipeline import Piece
from samclip.benchmarks.latency.rounds import RoundLog, Schedule, to_timings, turn
from samclip.benchmarks.measurements import Timing
from samclip.progress import Progress, track
from samclip.runtime.pixels.image import load_image

ENCODER, WHOLE = "encoder", "encode and a box"
PROTOCOL = (
    "Time: a photo is stretched to fill the shape, and encoded there and in the first shape, in "
    "turn; the order is turned round after each round.",
    f"'{ENCODER}': the run of its graph. '{WHOLE}': resizing, the encoder, and the mask of one "
    "box. A ratio is the median of the rounds' own ratios; intervals are bootstraps over rounds.",
)
CPU_TIME = (
    "Seconds are CPU time of all threads of the process (--cpu-time), which other processes "
    "lengthen little; a latency is another figure."
)


def measure_shapes(
    shaped: Contender, first: Contender, schedule: Schedule, photo: Path, progress: Progress
) -> list[Timing]:
    """Time both models on a picture of each further shape; the first model's timings come first."""
    pixels = load_image(photo)
    timings: list[Timing] = []
    base = first.model.bundle.canvases[0]
    for canvas in (each for each in shaped.model.bundle.canvases if each != base):
        height, width = canvas
        image = _stretched(pixels, canvas)
        models = (first, shaped)
        records = [RoundLog() for _ in models]
        rounds = range(schedule.warm_up + schedule.repeats)
        for number in track(progress, rounds, f"rounds on {width} x {height}"):
            for place in turn(len(models), number):
                pieces = _time(models[place], image)
                if number >= schedule.warm_up:
                    records[place].rounds.append(pieces)
        timings += to_timings(models, records, "warm", photos=1)
    return timings


def _stretched(pixels: NDArray[np.uint8], canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture of exactly the canvas's (h, w)."""
    height, width = canvas
    stretched = Image.fromarray(pixels).resize((width, height), Resampling.BILINEAR)
    return np.asarray(stretched, np.uint8)


def _time(one: Contender, image: NDArray[np.uint8]) -> tuple[Piece, ...]:
    """Return the seconds of the encoder's graph, and of the encoding and a box together."""
    height, width = image.shape[:2]
    box: Sequence[float] = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    encode = one.clock.time(lambda: one.model.encode(image))
    with encode.answer as scene:
        segment = one.clock.time(lambda: scene.segment(boxes=[box]))
    on = f"{width} x {height}"
    return (
        Piece("stage", f"{ENCODER}, {on}", encode.inside[ENCODER]),
        Piece("pipeline", f"{WHOLE}, {on}", encode.seconds + segment.seconds),
    )
