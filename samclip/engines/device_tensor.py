"""Results that stay on the device that computed them, in the forms in which libraries take arrays.

numpy, torch, cupy, jax and numba take them without a copy: by DLPack, by numpy's array interface on
the host, by CUDA's array interface on a GPU.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from samclip.engines.base import ArrayTensor, HostTensor, Tensor
from samclip.engines.dlpack import CPU, ExchangeError, Placed, make_capsule

HOST = (CPU, 0)
MARKS_READ_ONLY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"  # DLPack 1.0


@runtime_checkable
class Lendable(Protocol):
    """A tensor that may be on a GPU, whose memory another library may be given."""

    def lend(self) -> Placed | None:
        """Return the data's place on the GPU; None when it is on the host."""
        ...


class DeviceTensor:
    """A result on its device, which other libraries take without a copy; do not write to it.

    `torch.from_dlpack`, `cupy.from_dlpack`, `numpy.from_dlpack` and so on take it by `__dlpack__`;
    numba and older libraries by `__cuda_array_interface__` on a GPU, numpy by `__array__` and
    `__array_interface__`. It is in C order, and its computation has ended: it may be read on any
    stream at once. Memory is freed when the last array that was made from it goes, whether the
    scene and the model are closed by then or not. With the backends "tensorrt" and "tensorrt-rtx"
    it is used again only after the GPU's work up to then has ended; with "cuda" and
    "ort-tensorrt" wait for your own work on it before you drop it.

    Examples:
        >>> import numpy as np
        >>> tensor = scene.tensor("image_embeddings")
        >>> tensor.device, np.from_dlpack(tensor).shape
        ('cpu', (1, 256, 48, 64))
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        host = tensor.on_host() if isinstance(tensor, HostTensor) else None
        if host is None and not isinstance(tensor, Lendable):
            host = tensor.numpy()  # of a separate process, or of a fake
        self._host = None if host is None else np.ascontiguousarray(host).reshape(tensor.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return tuple(self._tensor.shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements, as numpy names it."""
        dtype: np.dtype[Any] = self._tensor.dtype
        return dtype

    @property
    def device(self) -> str:
        """Where it is: "cpu", or "cuda:0" and so on, as torch writes it."""
        return "cpu" if self._host is not None else f"cuda:{self.__dlpack_device__()[1]}"

    def numpy(self) -> NDArray[np.generic]:
        """Return it on the host: a read-only view where it is there, else a copy of the GPU's.

        Raises EngineRunError.
        """
        if self._host is None:
            return self._tensor.numpy()
        view: NDArray[np.generic] = self._host.view()
        view.flags.writeable = False
        return view

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        array = self.numpy()
        is_copied = self._host is None
        if copy is False and (is_copied or (dtype is not None and np.dtype(dtype) != array.dtype)):
            raise ExchangeError(
                f"this {self.dtype} array on {self.device} has no such form without a copy. Leave "
                "out copy=False."
            )
        if dtype is not None:
            return array.astype(dtype, copy=bool(copy) and not is_copied)
        return array.copy() if copy and not is_copied else array

    def __dlpack_device__(self) -> tuple[int, int]:
        return HOST if self._host is not None else self._lend().device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule, as the Python array API standard has it.

        `stream`: the consumer's, which need not wait, as the data is there. A copy is made only for
        a `dl_device` that is the host's. Raises ExchangeError, a BufferError.
        """
        here = self.__dlpack_device__()
        wanted = here if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
        if wanted not in (here, HOST):
            self._refuse(f"device {wanted} was asked for; it is on {here}")
        if wanted == HOST:
            return self._host_capsule(stream if here == HOST else None, max_version, copy)
        if isinstance(stream, bool) or not isinstance(stream, int | None):
            self._refuse(f"stream is a {type(stream).__name__}, expected a whole number or None")
        if stream == 0 or (stream is not None and stream < -1):
            self._refuse(f"stream {stream} stands for no stream, the default one is 1")
        if copy:
            self._refuse("a copy on the GPU was asked for. Take it without, then clone it")
        return make_capsule(self._lend(), self._tensor, max_version)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self._host is None:
            raise AttributeError("an array on a GPU has no __array_interface__: call numpy()")
        return self.numpy().__array_interface__

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._host is not None:
            raise AttributeError("an array on the host has no __cuda_array_interface__")
        placed = self._lend()
        return {
            "shape": placed.shape,
            "typestr": placed.dtype.str,
            "data": (placed.address, False),  # torch refuses arrays that are marked read-only
            "strides": None,
            "version": 3,
            "stream": None,  # the data is there: no consumer has to wait
        }

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array of no dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceTensor({'x'.join(map(str, self.shape))} {self.dtype}, {self.device})"

    def _lend(self) -> Placed:
        placed = self._tensor.lend() if isinstance(self._tensor, Lendable) else None
        if placed is None:
            raise ExchangeError("this array is on the host, not on a GPU. Call numpy().")
        return placed

    def _host_capsule(
        self, stream: object, max_version: tuple[int, int] | None, copy: bool | None
    ) -> Any:
        """Let numpy make the capsule of the data on the host."""
        if stream is not None:
            self._refuse("an array on the host has no stream, expected stream=None")
        if copy is False and self._host is None:
            self._refuse("it is on a GPU, and cannot be on the host without a copy")
        marks = max_version is not None and max_version[0] >= 1 and MARKS_READ_ONLY
        array: Any = self._host
        if array is None:
            array = self._tensor.numpy()
        elif copy:
            array = array.copy()
        elif marks:
            array = self.numpy()
        # The older form cannot mark what is read-only: numpy refuses read-only arrays there.
        return array.__dlpack__(max_version=max_version) if marks else array.__dlpack__()

    def _refuse(self, reason: str) -> NoReturn:
        raise ExchangeError(f"this array cannot be exported by DLPack: {reason}.")


def part_of(tensor: Tensor, *index: int) -> Tensor:
    """Return the sub-array at indices of the leading axes.

    A view where the tensor is on the host or of a TensorRT engine, else a copy on the host.
    """
    part = getattr(tensor, "part", None)
    if part is not None:
        found: Tensor = part(*index)
        return found
    host = tensor.on_host() if isinstance(tensor, HostTensor) else None
    return ArrayTensor((tensor.numpy() if host is None else host)[index])
