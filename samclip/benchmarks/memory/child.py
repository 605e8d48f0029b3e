"""Code of a fresh process whose memory is measured: it goes as far as one stage, and reports.

Imports nothing that a user's program would not, so that nothing else is in its memory.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# the parent runs this; `argv` 1 is JSON
CODE = "import samclip; from samclip.benchmarks.memory.child import main; main()"
STATUS = Path("/proc/self/status")


def main() -> None:
    """Go through the stages up to the one asked for; print the peak and the GPU's memory.

    The JSON: `steps`, the stages to do, in order, `bundle`, the `options` of `samclip.load`,
    `photo`, `names`, `canvases`, the (h, w) of all shapes of input, and `gpu`, the number of the
    GPU that is asked for its memory, or null.
    """
    given = json.loads(sys.argv[1])
    held: list[Any] = []  # as a program holds its model and its scene
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        for step in given["steps"]:
            held.append(_STEPS[step](given, held))
    found: dict[str, Any] = {"peak": peak_rss(), "device": None, "reason": None}
    if given["gpu"] is not None:
        found.update(_device_memory(given["gpu"]))
    sys.stdout.write(json.dumps(found))


def peak_rss() -> int:
    """Return the highest resident set of this process so far, in bytes.

    From the kernel's status file where there is one: `getrusage` of a process on Linux begins at
    what the process that started it held. Raises CapabilityError on Windows.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource  # noqa: PLC0415 - absent on Windows
    except ImportError as error:
        from samclip.errors import CapabilityError  # noqa: PLC0415

        raise CapabilityError(
            "this system does not report a process's highest memory. Measure it on Linux or macOS."
        ) from error
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_memory(index: int) -> dict[str, Any]:
    from samclip.benchmarks.nvml import open_nvml  # noqa: PLC0415 - after all was measured
    from samclip.errors import CapabilityError  # noqa: PLC0415

    try:
        with open_nvml(index) as gpu:
            return {"device": gpu.process_memory()}
    except CapabilityError as error:
        return {"reason": str(error)}


def _load(given: dict[str, Any], held: list[Any]) -> Any:
    del held
    import samclip  # noqa: PLC0415 - the caller has imported it

    return samclip.load(given["bundle"], **given["options"])


def _segment(given: dict[str, Any], held: list[Any]) -> Any:
    del given
    height, width = held[1].size
    return held[1].segment(points=[(width / 2, height / 2)])


def _shapes(given: dict[str, Any], held: list[Any]) -> None:
    import numpy as np  # noqa: PLC0415 - samclip has imported it

    for height, width in given["canvases"]:
        with held[0].encode(np.full((height, width, 3), 127, np.uint8)) as scene:
            scene.segment(points=[(width / 2, height / 2)])


_STEPS: dict[str, Callable[[dict[str, Any], list[Any]], Any]] = {
    "load": _load,
    "encode": lambda given, held: held[0].encode(given["photo"]),
    "segment": _segment,
    "shapes": _shapes,
    "classify": lambda given, held: held[1].classify(given["names"]),
    "name": lambda given, held: held[1].name(held[2], given["names"]),
    "semantic": lambda given, held: held[1].semantic(given["names"]),
    "refine": lambda given, held: held[1].semantic(given["names"], refine=True),
    "everything": lambda _, held: held[1].everything(),
}
