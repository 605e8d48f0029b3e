"""A loop over a camera, a video or a folder of photos: each frame is segmented and named.

    python examples/camera_loop.py 0 --names "a person,a cup,a table"          # the first camera
    python examples/camera_loop.py street.mp4 --names "a car,a bus" --limit 100
    python examples/camera_loop.py photos/ --output drawn/

The loop reads and resizes the next frame while the encoder works on this one. OpenCV's frames are
BGR; samclip takes RGB.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import samclip

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
Frame = NDArray[np.uint8]


def read_frames(source: str) -> Iterator[Frame | Path]:
    """Yield the photos of a folder, or the frames of a video or camera as HWC uint8 RGB."""
    if Path(source).is_dir():
        yield from sorted(p for p in Path(source).iterdir() if p.suffix.lower() in SUFFIXES)
        return
    video = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not video.isOpened():
        raise SystemExit(f"{source} is neither a folder nor a video that OpenCV can open.")
    try:
        while True:
            there, frame = video.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8)
    finally:
        video.release()


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer each frame, and print a line for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a camera's number, a video, or a folder of photos")
    parser.add_argument("--names", default="a person,a cup,a cat,a rocket")
    parser.add_argument("--bundle", default=None)
    parser.add_argument("--limit", type=int, default=None, help="stop after so many frames")
    parser.add_argument("--output", type=Path, default=None, help="a folder for drawn frames")
    options = parser.parse_args(arguments)
    names = options.names.split(",")
    if options.output is not None:
        options.output.mkdir(exist_ok=True)

    with samclip.load(options.bundle) as model:
        vocabulary = model.vocabulary(names)  # embedded once, used for every frame
        frames = itertools.islice(read_frames(options.source), options.limit)
        began = time.perf_counter()
        for number, scene in enumerate(model.encode_all(frames)):
            height, width = scene.size
            with scene:
                seen = scene.classify(vocabulary)
                centre = scene.segment(points=[(width / 2, height / 2)], names=vocabulary)
            now = time.perf_counter()
            print(
                f"frame {number}: {1000 * (now - began):.0f} ms, {seen.best}; in the centre "
                f"{(centre.names or ('nothing',))[0]}, {int(centre.areas[0]):,} pixels"
            )
            if options.output is not None:
                centre.save(options.output / f"{number:06d}.png")
            began = now


if __name__ == "__main__":
    main()
