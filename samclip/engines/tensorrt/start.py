"""A plan's verified bytes as a running engine."""

from __future__ import annotations

import traceback

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.cuda.device import open_device
from samclip.engines.cuda.memory import DeviceMemory
from samclip.engines.plans.library import Library
from samclip.engines.tensorrt.engine import TrtEngine, refit
from samclip.engines.tensorrt.library import deserialize
from samclip.engines.tensorrt.signature import read_signature


def start_engine(
    library: Library,
    plan: bytes,
    is_stripped: bool,
    source: GraphSource,
    options: EngineOptions,
) -> TrtEngine:
    """Deserialise a plan of `source`, refit one that was built without weights, and start it.

    Raises EngineRunError, PlanForeignError, and BackendUnavailableError without the GPU.
    """
    memory = DeviceMemory(open_device(options.device))
    try:
        return _start(library, plan, is_stripped, source, memory, options)
    except BaseException as error:
        # TensorRT's objects must go before the context in which they were created.
        traceback.clear_frames(error.__traceback__)
        memory.close()
        raise


def _start(
    library: Library,
    plan: bytes,
    is_stripped: bool,
    source: GraphSource,
    memory: DeviceMemory,
    options: EngineOptions,
) -> TrtEngine:
    with memory.device.active():
        loaded = deserialize(library, plan, source.name)
        try:
            if is_stripped:
                refit(library, loaded.engine, source)
            signature = read_signature(library.module, loaded.engine, source.name)
            gpu = library.state.gpu
            shares = gpu is not None and gpu.integrated
            return TrtEngine(loaded, signature, memory, options, shares)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            loaded.close()
            raise
