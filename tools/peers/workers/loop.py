"""The loop of a worker process: a request a line on stdin, an answer a line on stdout, as JSON.

It runs in environments where samclip is not installed and imports nothing but Python's own
library until a request needs more. `argv` 1 is the file of the peer, which defines

`load(setup)`: makes the model ready and returns `run(photo, watch)`, which takes one photo through
it and calls `watch.lap(name)` after each stage, see `Stopwatch`;
`export(setup)`, where it makes files for workers: writes them into `setup.folder`.

Requests are `{"do": ...}`: "load" and "export" with the fields of `Setup`, "run" with a `photo`,
"memory". Each answer has `ok`, and `error` where that is false.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import platform
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TextIO

MEAN = (123.675, 116.28, 103.53)  # of SAM, for pixels in [0, 255]
STD = (58.395, 57.12, 57.375)
STATUS = Path("/proc/self/status")


class Setup:
    """The request to load a peer.

    `image_size`: the side of the encoder's square input in pixels. `threads`: of each operator.
    `seed`: of random weights. `checkpoint`: a path, or None for random weights. `folder`: where
    exported files are, or None. `options`: the peer's own. `facts`: what the peer reports.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.image_size = int(request["image_size"])
        self.threads = int(request["threads"])
        self.seed = int(request["seed"])
        self.checkpoint: str | None = request["checkpoint"]
        self.folder: str | None = request["folder"]
        self.options: dict[str, Any] = request["options"]
        self.facts: dict[str, Any] = {}

    def prepare(self, photo: str) -> tuple[Any, tuple[int, int], tuple[int, int]]:
        """Read a photo as SAM's own code does: longest side to `image_size`, normalise, pad.

        Returns 1x3xSxS float32, and (height, width) of the photo and of the part that is not
        padding. Needs numpy and Pillow.
        """
        np, images = importlib.import_module("numpy"), importlib.import_module("PIL.Image")
        size = self.image_size
        with images.open(photo) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        scale = size / max(width, height)
        inner = int(height * scale + 0.5), int(width * scale + 0.5)
        small = np.asarray(image.resize(inner[::-1], images.Resampling.BILINEAR), np.float32)
        padded = np.zeros((1, 3, size, size), np.float32)
        normal = (small - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
        padded[0, :, : inner[0], : inner[1]] = normal.transpose(2, 0, 1)  # HWC -> CHW
        return padded, (height, width), inner


class Stopwatch:
    """Collects the seconds of stages, in their order."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a stage, which began with the watch or at the last lap."""
        now = time.perf_counter()
        self.add(name, now - self._last)
        self._last = now

    def add(self, name: str, seconds: float) -> None:
        """Note a stage that was timed otherwise."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds


class Worker:
    """Answers requests for one peer."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._run: Callable[[str, Stopwatch], object] | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks for; raises whatever goes wrong."""
        known = {"load": self._load, "export": self._export, "run": self._go, "memory": _memory}
        return known[request["do"]](request)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        setup, start = Setup(request), time.perf_counter()
        self._run = runpy.run_path(self._file)["load"](setup)
        return {
            "seconds": time.perf_counter() - start,
            "python": platform.python_version(),
            "facts": setup.facts,
            "packages": {found.metadata["Name"]: found.version for found in distributions()},
        }

    def _export(self, request: dict[str, Any]) -> dict[str, Any]:
        runpy.run_path(self._file)["export"](Setup(request))
        return {}

    def _go(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._run is None:
            raise RuntimeError("nothing is loaded: send 'load' first")
        watch = Stopwatch()
        self._run(request["photo"], watch)
        return {"stages": watch.stages}


def _memory(request: dict[str, Any]) -> dict[str, Any]:
    """Return the highest resident set of this process so far, in bytes; None on Windows."""
    del request
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return {"peak": int(line.split()[1]) * 1024}
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return {"peak": None}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _take_stdout() -> TextIO:
    """Keep stdout for answers; what libraries print goes to stderr."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the last line is there, however all ends
    return channel


def main() -> None:
    """Answer until stdin ends."""
    channel = _take_stdout()
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = {"ok": True, **worker.answer(json.loads(line))}
        except Exception as error:  # whatever a library raises is the answer
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
