"""Peers that claim to have taken a given time, or fail in a given way, as files for workers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tools.peers.contenders import Contender
from tools.peers.worker_process import WorkerProcess

SOUND = """
print("a library says hello")
def load(setup):
    setup.facts["backend"] = "fake"
    def run(photo, watch):
        watch.add("prepare", 0.001)
        watch.add("encoder", {delay})
        {more}
    return run
"""
TASKS = (
    "for name in ('segment a point', 'classify 20 names', 'semantic coarse, 20 names'): "
    "watch.add(name, 0.001)"
)
BROKEN_LOAD = "def load(setup):\n    raise MemoryError('no room for it')\n"
DEAD_LOAD = (
    "import os, signal\ndef load(setup):\n    print('about to end')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)
BROKEN_RUN = """
def load(setup):
    photos = []
    def run(photo, watch):
        photos.append(photo)
        if len(photos) == 3:
            raise ValueError("the third photo is too much")
        watch.lap("prepare")
        watch.lap("encoder")
    return run
"""
REQUEST = {
    "do": "load",
    "image_size": 64,
    "threads": 1,
    "seed": 0,
    "checkpoint": None,
    "folder": None,
    "options": {},
}


def start(folder: Path, code: str, name: str = "peer") -> WorkerProcess:
    file = folder / f"{name}.py"
    file.write_text(code)
    return WorkerProcess([sys.executable, "-I"], file, threads=1)


def fake_contender(folder: Path, name: str, code: str, bundle: Path | None = None) -> Contender:
    def begin(report: Any) -> tuple[WorkerProcess, dict[str, Any]]:
        return start(folder, code, name), REQUEST

    return Contender(name, "a fake", 64, begin, bundle)
