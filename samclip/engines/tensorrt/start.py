"""A plan's verified bytes as a running engine."""

from __future__ import annotations

import traceback
from pathlib import Path

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.cuda.device import open_device
from samclip.engines.cuda.memory import DeviceMemory
from samclip.engines.plans.library import Library
from samclip.engines.plans.own_files import PlanBytes
from samclip.engines.tensorrt.engine import TrtEngine, refit
from samclip.engines.tensorrt.kernels import Kernels, compiles_before_running
from samclip.engines.tensorrt.library import deserialize
from samclip.engines.tensorrt.signature import read_signature


def start_engine(
    library: Library,
    plan: PlanBytes,
    is_stripped: bool,
    source: GraphSource,
    options: EngineOptions,
    kernels: Path | None = None,
) -> TrtEngine:
    """Deserialise a plan of `source`, refit one that was built without weights, and start it.

    `kernels`: the file of kernels that were compiled of it, see `tensorrt.kernels`. Raises
    EngineRunError, PlanForeignError, and BackendUnavailableError without the GPU.
    """
    memory = DeviceMemory(open_device(options.device))
    try:
        return _start(library, plan, is_stripped, source, memory, options, kernels)
    except BaseException as error:
        # TensorRT's objects must go before the context in which they were created.
        traceback.clear_frames(error.__traceback__)
        memory.close()
        raise


def _start(
    library: Library,
    plan: PlanBytes,
    is_stripped: bool,
    source: GraphSource,
    memory: DeviceMemory,
    options: EngineOptions,
    kernels: Path | None,
) -> TrtEngine:
    with memory.device.active():
        loaded = deserialize(library, plan, source.name)
        try:
            if is_stripped:
                refit(library, loaded.engine, source)
            signature = read_signature(library.module, loaded.engine, source.name)
            gpu = library.state.gpu
            shares = gpu is not None and gpu.integrated
            if compiles_before_running(library.module):
                module, graphs = library.module, options.cuda_graphs
                loaded.kernels = Kernels(module, loaded.engine, kernels, graphs)
            return TrtEngine(loaded, signature, memory, options, shares)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            loaded.close()
            raise
