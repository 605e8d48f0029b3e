"""Time prompts with two checkouts of samclip in turns, each with the bundle that it ships.

    python -m tools.compare_versions ../samclip-before --backend onnxruntime --rounds 20

Each checkout runs in a process of its own, which encodes a packaged photo once; the order turns
round after each round. Written are medians, the median of the rounds' ratios with a 95 % interval
from a bootstrap over rounds, the ratio of processor times, and the peak memory of both processes
(`VmHWM`) after their first mask and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent.parent
TASKS = {"point": 1, "box": 1, "everything": 4}  # of how many rounds one is timed
CLICKS = 5  # of one measurement
RESAMPLES = 2000
CHILD = """
import json, pathlib, sys, time, samclip
from samclip.runtime.assets import packaged_photos
def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
photo = sorted(packaged_photos().glob("*.jpg"))[0]
scene = samclip.load("samclip-tiny", backend=sys.argv[1]).encode(photo)
height, width = scene.size
tasks = {
    "point": lambda: scene.segment(points=[(0.4 * width, 0.5 * height)]),
    "box": lambda: scene.segment(boxes=[(0.2 * width, 0.2 * height, 0.7 * width, 0.8 * height)]),
    "everything": lambda: scene.everything(),
}
for line in sys.stdin:
    name, times = line.split()
    start, used, times = time.perf_counter(), time.process_time(), int(times)
    for _ in range(times):
        tasks[name]()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(json.dumps([seconds / times, used / times, peak()]), flush=True)
"""


class Version:
    """A process that runs the samclip of a checkout."""

    def __init__(self, checkout: Path, backend: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )

    def time(self, task: str, times: int) -> list[float]:
        """Return seconds, seconds of the processor, and the peak in MiB so far."""
        process = self.process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        process.stdin.write(f"{task} {times}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            sys.exit("a checkout's process ended; its error is above")
        found: list[float] = json.loads(answer)
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and write a line for each task."""
    parser = argparse.ArgumentParser(prog="python -m tools.compare_versions", description=__doc__)
    parser.add_argument("other", type=Path, help="the checkout that this one is compared with")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args(arguments)
    versions = [Version(path, given.backend) for path in (given.other.resolve(), HERE)]
    first = [version.time("point", 1)[2] for version in versions]
    say = f"peak up to the first mask {first[0]:.0f} and {first[1]:.0f} MiB"
    sys.stdout.write(f"{given.backend}: {say}\n")
    for task, share in TASKS.items():
        times = 1 if share > 1 else CLICKS
        rows: tuple[list[Any], list[Any]] = ([], [])
        for number in range(max(1, given.rounds // share)):
            for place in (0, 1) if number % 2 else (1, 0):
                rows[place].append(versions[place].time(task, times))
        sys.stdout.write(f"{given.backend}: {task}: {describe(*map(np.asarray, rows))}\n")
        sys.stdout.flush()
    for version in versions:
        version.process.kill()


def describe(other: NDArray[np.float64], here: NDArray[np.float64]) -> str:
    """Describe measurements Nx3, as `Version.time` returns them: of the other checkout, of this."""
    ratios, used = (here[:, column] / other[:, column] for column in (0, 1))
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    before, after = (1e3 * np.median(rows[:, 0]) for rows in (other, here))
    return (
        f"{before:.1f} and {after:.1f} ms, {np.median(ratios):.3f}x the time "
        f"({low:.3f} - {high:.3f}, {len(ratios)} rounds), {np.median(used):.3f}x the processor's; "
        f"peak {other[-1, 2]:.0f} and {here[-1, 2]:.0f} MiB"
    )


if __name__ == "__main__":
    main()
