"""Arrays that other libraries have on the stand-in for a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fake_gpu import FakeGpu
from numpy.typing import NDArray

from samclip.engines.cuda.driver import CudaDevice
from samclip.engines.dlpack import CUDA, Placed, make_capsule


class OnGpu:
    """An array that another library has on the stand-in, written by work on a stream of its own.

    `place`: what it says of itself that is not so, or of a part of `array`: shape, strides.
    """

    def __init__(self, gpu: FakeGpu, cuda: CudaDevice, array: NDArray[Any], **place: Any) -> None:
        self.gpu = gpu
        self._device = cuda
        self._array = array
        self._place = place
        self.asked: list[Any] = []
        self.host_copies = 0
        with self._device.active():
            self.address = self.gpu.allocate(max(array.nbytes, 1))
            self.stream = self.gpu.create_stream(1)
            self.gpu.submit(self.stream, self._write)

    def _write(self) -> None:
        block = self.gpu.view(self.address, self._array.nbytes)
        block[:] = np.ascontiguousarray(self._array).reshape(-1).view(np.uint8)

    def free(self) -> None:
        with self._device.active():
            self.gpu.synchronize(self.stream)
            self.gpu.destroy_stream(self.stream)
            self.gpu.free(self.address)

    def overwrite(self, array: NDArray[Any]) -> None:
        """Write another array of the same size, on the same stream."""
        self._array = array
        with self._device.active():
            self.gpu.submit(self.stream, self._write)

    def cpu(self) -> torch.Tensor:
        self.host_copies += 1
        rows, columns, *_ = self._place.get("shape", self._array.shape)
        return torch.from_numpy(self._array[:rows, :columns].copy())


class ByDlpack(OnGpu):
    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._place.get("device", (CUDA, 0))
        return device

    def __dlpack__(self, *, stream: int | None = None, max_version: Any = None) -> Any:
        self.asked.append(stream)
        if stream not in (None, -1):
            if self._place.get("fails"):
                raise RuntimeError("no such stream")
            self.gpu.order(stream, self.stream)
        placed = Placed(
            self.__dlpack_device__(),
            self.address,
            self._place.get("shape", self._array.shape),
            self._array.dtype,
            self._place.get("strides"),
        )
        return make_capsule(placed, self, max_version)


class ByInterface(OnGpu):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = {
            "shape": self._array.shape,
            "typestr": self._array.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": self.stream,
        }
        return found | self._place
