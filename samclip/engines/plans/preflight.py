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
# On a Jetson the kernels' library lies in the same memory twice, for the CPU and for the GPU: an
# Orin Nano's log says 928 and 749 MiB.
INTEGRATED_BASE_BYTES = 1792 * 2**20
MAX_DEFAULT_WORKSPACE = 2**30  # of a GPU that shares the machine's memory
COMFORT = 1.5  # below so many times the need a build may still fail: a warning
ITEM_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1, "INT64": 8}


def check_memory(
    network: Network, library: Library, progress: Progress, workspace: int | None
) -> None:
    """Compare what a build with a `workspace` needs with what is free; unknown amounts pass.

    Warns through `progress` when it is tight. Raises PlanBuildError, with the figures, when a build
    cannot fit: then free memory, or build on a machine with more.
    """
    weights, gpu = weight_bytes(network), library.state.gpu
    needs, free = WEIGHT_COPIES * weights + BASE_BYTES[library.name], available_memory()
    if not library.kind.needs_gpu or gpu is None:
        _compare("memory", needs, free, weights, progress)
        return
    of_gpu = weights + (workspace or 0)
    if gpu.integrated:  # one memory for both
        needs = WEIGHT_COPIES * weights + INTEGRATED_BASE_BYTES + of_gpu
        _compare(f"memory, which {gpu.name} shares,", needs, free, weights, progress)
        return
    _compare("memory", needs, free, weights, progress)
    _compare(f"memory of {gpu.name}", of_gpu, gpu.memory, weights, progress)


def default_workspace(library: Library) -> int | None:
    """Return the scratch memory in bytes of a build whose options name none; None for TensorRT's.

    TensorRT's own default is all of the GPU's memory, which on a Jetson is the machine's: there it
    is a quarter of what is free, at most 1 GiB.
    """
    gpu, free = library.state.gpu, available_memory()
    if not library.kind.needs_gpu or gpu is None or not gpu.integrated:
        return None
    return MAX_DEFAULT_WORKSPACE if free is None else min(MAX_DEFAULT_WORKSPACE, free // 4)


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
