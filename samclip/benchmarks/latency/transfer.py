"""How long the encoder's input takes to a GPU: a part of the encoder's time, measured apart.

Copied as TensorRT's engines copy it: into pinned memory, from there to the device, and waited for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.timing import Timing
from samclip.engines.cuda.device import open_device
from samclip.engines.cuda.driver import CudaDevice, HostArray
from samclip.engines.cuda.memory import DeviceMemory

TRANSFER = "host-to-device copy of the input (within: encoder)"


def measure_transfers(contenders: Sequence[Contender], repeats: int) -> list[Timing]:
    """Time the copy for each model on a GPU; nothing for those on the host.

    Raises BackendUnavailableError where neither cuda-python nor pycuda is there to copy.
    """
    found = []
    for contender in contenders:
        if not contender.backend.on_host:
            side = contender.model.manifest.preprocessing.image_size
            samples = time_copies(open_device(), (1, 3, side, side), repeats)
            timing = Timing(model=contender.name, kind="stage", name=TRANSFER, samples=samples)
            found.append(timing)
    return found


def time_copies(
    device: CudaDevice, shape: tuple[int, ...], repeats: int, warm_up: int = 3
) -> tuple[float, ...]:
    """Copy a float32 array of `shape` again and again; seconds each. Closes `device`."""
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    flat = array.reshape(-1).view(np.uint8)
    memory = DeviceMemory(device)
    try:
        block, pinned = memory.blocks.take(flat.nbytes), memory.pinned.take(flat.nbytes)
        with device.active(), memory.stream() as stream:
            found = [
                _copy(device, block.memory, pinned.memory[: flat.nbytes], flat, stream)
                for _ in range(warm_up + repeats)
            ]
        memory.blocks.give(block)
        memory.pinned.give(pinned)
    finally:
        memory.close()
    return tuple(found[warm_up:])


def _copy(
    device: CudaDevice, address: int, pinned: HostArray, array: HostArray, stream: int
) -> float:
    start = time.perf_counter()
    pinned[...] = array
    device.to_device(address, pinned, stream)
    device.synchronize(stream)
    return time.perf_counter() - start
