"""A check before a build that the memory of this machine suffices for it.

The system kills a build that runs out of memory without a message, on a Jetson together with other
programs.
"""

from __future__ import annotations

import math

from samclip.engines.backend_names import TENSORRT, TENSORRT_RTX
from samclip.engines.machine.free_memory import available_memory
from samclip.engines.plans.library import Library
from samclip.engines.plans.network import Network
from samclip.engines.steps import ChangeSettings
from samclip.errors import PlanBuildError
from samclip.progress import Progress

# A build holds the weights once as they were parsed, once as its kernels take them, and once in
# the plan. Libraries alone take the second figure.
WEIGHT_COPIES = 3
BASE_BYTES = {TENSORRT: 2**30, TENSORRT_RTX: 300 * 2**20}
COMFORT = 1.5  # below so many times the need a build may still fail: a warning
ITEM_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1, "INT64": 8}


def check_memory(
    network: Network, library: Library, progress: Progress, workspace: int | None = None
) -> None:
    """Compare what a build needs with what is free; unknown amounts pass.

    Warns through `progress` when it is tight. Raises PlanBuildError, with the figures, when a build
    cannot fit: then free memory, or build on a machine with more.
    """
    weights = weight_bytes(network)
    needs = WEIGHT_COPIES * weights + BASE_BYTES[library.name]
    _compare("memory", needs, available_memory(), weights, progress)
    gpu = library.state.gpu
    if library.kind.needs_gpu and gpu is not None:
        _compare(f"memory of {gpu.name}", weights + (workspace or 0), gpu.memory, weights, progress)


def weight_bytes(network: Network) -> int:
    """Sum the bytes of a network's constants."""
    tensors = [ly.get_output(0) for ly in network.layers() if ly.type.name == "CONSTANT"]
    return sum(math.prod(t.shape) * ITEM_BYTES.get(t.dtype.name, 4) for t in tensors)


def _compare(what: str, needs: int, free: int | None, weights: int, progress: Progress) -> None:
    if free is None or free >= COMFORT * needs:
        return
    figures = (
        f"{needs / 1e9:.1f} GB of {what} ({weights / 1e9:.2f} GB of weights), and "
        f"{free / 1e9:.1f} GB are free"
    )
    if free < needs:
        raise PlanBuildError(
            f"this build needs about {figures}. Close other programs, build with a smaller "
            "workspace, or on a machine with more memory; without the preflight it is tried all "
            "the same.",
            steps=(ChangeSettings(("workspace", "preflight")),),
        )
    progress.note(f"warning: this build needs about {figures}: it may fail")
