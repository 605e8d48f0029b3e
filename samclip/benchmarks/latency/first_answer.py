"""Code of a new process that times each step from import to answers, as a user's program would.

Imports nothing that such a program would not: only then does `import samclip` take as long.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

# the parent runs this; `argv` 1 is its clock when it started the process, 2 is JSON
CODE = (
    "import time; started = time.monotonic(); import samclip; imported = time.monotonic(); "
    "from samclip.benchmarks.latency.first_answer import main; main(started, imported)"
)
LOAD, ENCODE, POINT = "load bundle, engine of the encoder", "encode a photo file", "segment a point"
CLASSIFY, COARSE = "embed and classify 20 names", "semantic coarse, 20 names"


def main(started: float, imported: float) -> None:
    """Print seconds by step, in their order, as JSON.

    Times are of `time.monotonic`, which all processes share: before and after `import samclip`.
    """
    spawned, given = float(sys.argv[1]), json.loads(sys.argv[2])
    times = {"start Python": started - spawned, "import samclip": imported - started}
    times.update(answer(given, imported))
    sys.stdout.write(json.dumps(times))


def answer(given: dict[str, Any], start: float) -> dict[str, float]:
    """Load the bundle, encode the photo and answer; seconds by step from `start` on.

    `given`: `bundle`, the `options` of `samclip.load`, a `photo`, and `names`, none for a bundle
    that cannot name.
    """
    import samclip  # noqa: PLC0415 - the caller has timed its import

    times: dict[str, float] = {}
    last = start

    def tick(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        times[step], last = now - last, now

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", samclip.UntrainedHeadWarning)
        model = samclip.load(given["bundle"], **given["options"])
        tick(LOAD)
        scene = model.encode(given["photo"])
        tick(ENCODE)
        height, width = scene.size
        scene.segment(points=[(width / 2, height / 2)])
        tick(POINT)
        if given["names"]:
            scene.classify(given["names"])
            tick(CLASSIFY)
            scene.semantic(given["names"])
            tick(COARSE)
        model.close()
    return times
