"""A process that watches a long video; prints its memory as a table, then as JSON.

`python watch_process.py BUNDLE BACKEND FRAMES (followed | found)`. The video is a file, which PyAV
decodes. An object is followed from its box, or a grid of points finds everything and numbers it.
Names change while it runs, and a video of the answers is written.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from soak_process import ROWS, Row, report, rss

import samclip
from samclip.video.writer import VideoWriter

WARM_UP = 500  # frames
SIZE, SIDE = (144, 192), 40  # of a frame (h, w), of its square
RATE = 25
ASKED: dict[str, dict[str, Any]] = {
    "followed": {"boxes": [(20, 20, 20 + SIDE, 20 + SIDE)]},
    "found": {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
}


def write_clip(path: Path, frames: int) -> None:
    """Write a square that goes around in front of noise, hidden now and then."""
    ground = np.random.default_rng(0).integers(0, 90, (*SIZE, 3), np.uint8)
    with VideoWriter(path, RATE) as writer:
        for number in range(frames):
            image = ground.copy()
            if number % 200 < 180:
                x, y = 70 - int(50 * math.cos(number / 30)), 20 + int(30 * math.sin(number / 30))
                y = max(0, y)
                image[y : y + SIDE, x : x + SIDE] = (220, 180, 60)
            writer.write(image, number / RATE)


def watch(model: samclip.Model, folder: Path, frames: int, kind: str) -> Iterator[Row]:
    """Answer the frames; yield a row after the warm-up and `ROWS` more."""
    write_clip(folder / "in.mp4", frames)
    began = time.monotonic()
    with (
        model.watch(folder / "in.mp4", ["square"], **ASKED[kind]) as watching,
        VideoWriter(folder / "out.mp4", RATE) as writer,
    ):
        count = 0
        for result in islice(watching, frames):
            count += 1
            writer.write(result.draw(), result.time)
            if count % 100 == 0:
                watching.names = ["square", f"name of frame {result.number}"]
            if count >= WARM_UP and (count - WARM_UP) % max(1, (frames - WARM_UP) // ROWS) == 0:
                yield Row(count, time.monotonic() - began, rss())
        assert count == frames, f"{count} of {frames} frames came"


def main(arguments: Sequence[str]) -> None:
    bundle, backend, frames, kind = arguments
    with (
        samclip.load(bundle, backend, threads=1) as model,
        tempfile.TemporaryDirectory() as folder,
    ):
        report(watch(model, Path(folder), int(frames), kind))


if __name__ == "__main__":
    main(sys.argv[1:])
