"""A process with little memory left; prints as JSON how its calls ended and what came after.

`python starved_process.py BUNDLE BACKEND THREADS`: each kind of call is made with a few megabytes
of address space more than are in use, beginning with almost none, then again without a limit.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mixed_calls import CALLS, NAMES, digest, photos

import samclip
from samclip.errors import SamclipError

MARGINS = (0, 1, 2, 4, 8, 16, 32, 64)  # MB of 10^6 bytes
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
GRID = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
BOXES = np.tile([[0.0, 0.0, 60.0, 60.0]], (2000, 1))
LARGE = np.zeros((3000, 3000, 3), np.uint8)


def calls(bundle: str, backend: str, model: samclip.Model) -> dict[str, Callable[[], object]]:
    """Return calls that need memory: in a backend's library, in OpenCV, in numpy."""
    scene = model.encode(photos()[0])
    return {
        "boxes": lambda: scene.segment(boxes=BOXES, multimask=True),
        "logits": lambda: scene.segment(boxes=BOXES[:64], return_logits=True),
        "everything": lambda: scene.everything(points_per_side=16, **GRID),
        "encode": lambda: model.encode(LARGE),
        "names": lambda: model.vocabulary([f"name {number}" for number in range(3000)]),
        "load": lambda: samclip.load(bundle, backend, threads=2).close(),
    }


def in_use() -> int:
    """Return the size of this process's address space in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def call_starved(call: Callable[[], object], margin: int) -> str:
    """Make a call with `margin` MB to spare; return its typed error's name, or "answer"."""
    resource.setrlimit(resource.RLIMIT_AS, (in_use() + margin * 1_000_000, NO_LIMIT[1]))
    try:
        call()
    except SamclipError as error:
        return type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_AS, NO_LIMIT)
    return "answer"


def main(arguments: Sequence[str]) -> None:
    bundle, backend, threads = arguments
    ends: Counter[str] = Counter()
    with samclip.load(bundle, backend, threads=int(threads)) as model:
        scene = model.encode(photos()[1])
        expected = [digest(ask(scene)) for ask in CALLS.values()]
        for call in calls(bundle, backend, model).values():
            for margin in MARGINS:
                ends[call_starved(call, margin)] += 1
                fresh = model.encode(photos()[1])
                right = [digest(ask(fresh)) for ask in CALLS.values()] == expected
                ends["right afterwards" if right else "wrong afterwards"] += 1
        model.vocabulary(NAMES)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1:])
