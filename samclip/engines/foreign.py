"""Arrays of other libraries, taken without a copy where they lie.

What has `__dlpack__` or `__cuda_array_interface__` is taken: tensors of torch, cupy, jax, numba. On
the host it becomes a numpy view. On a GPU it becomes a `ForeignTensor`, which engines on that GPU
take as a feed; `numpy()` copies it to the host.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import MAX_MESSAGE
from samclip.engines.cuda.driver import CudaDevice
from samclip.engines.cuda.memory import CudaTensor, size_of
from samclip.engines.dlpack import (
    CPU,
    CUDA,
    CUDA_HOST,
    CUDA_MANAGED,
    ExchangeError,
    Placed,
    TakenCapsule,
)
from samclip.errors import EngineRunError

LEGACY_STREAM = 1  # CU_STREAM_LEGACY: CUDA's default stream
UNORDERED = -1  # the consumer asks for no order: by the Python specification of DLPack
COPIERS = ("cpu", "get", "copy_to_host")  # of torch, cupy and numba
CUDA_INTERFACE = "__cuda_array_interface__"


def is_foreign(source: object) -> bool:
    """Whether this is an array, other than numpy's, that can be taken without a copy."""
    if isinstance(source, np.ndarray | np.generic | type):
        return False
    return (hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__")) or hasattr(
        source, CUDA_INTERFACE
    )


def take(source: Any) -> NDArray[np.generic] | ForeignTensor:
    """Take an array of which `is_foreign` holds; raises ExchangeError.

    A view of the host's memory shows later changes to it, and keeps it alive.
    """
    if not hasattr(source, "__dlpack__"):
        return ForeignTensor(source, None, _interface_place(source))
    try:
        kind, index = (int(number) for number in source.__dlpack_device__())
        if kind in (CPU, CUDA_HOST):
            return np.from_dlpack(source)
        capsule = source.__dlpack__(stream=UNORDERED) if kind in (CUDA, CUDA_MANAGED) else None
    except ExchangeError:
        raise
    except Exception as error:  # any library's own
        raise ExchangeError(
            f"a {type(source).__name__} cannot be taken by DLPack: {_said(error)}. Copy it into a "
            "numpy array."
        ) from error
    if capsule is None:
        raise ExchangeError(
            f"a {type(source).__name__} lies on a device of DLPack's type {kind} ({index}), "
            "expected the host or CUDA. Copy it into a numpy array."
        )
    return ForeignTensor(source, TakenCapsule(capsule))


class ForeignTensor:
    """An array of another library on a GPU, which it keeps alive.

    Its computation may be under way: `make_ready` orders a stream behind it.
    """

    def __init__(
        self, source: Any, taken: TakenCapsule | None, placed: Placed | None = None
    ) -> None:
        self._source = source
        self._taken = taken
        found = placed if taken is None else taken.placed
        assert found is not None  # noqa: S101 - for mypy: one of the two is given
        self._placed = found

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self._placed.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self._placed.dtype

    @property
    def nbytes(self) -> int:
        """The size of the data in bytes."""
        return size_of(self.shape, self.dtype)

    @property
    def address(self) -> int:
        """The data's address on the device; valid while this tensor lives."""
        return self._placed.address

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        return self._placed.is_contiguous

    @property
    def row_pitch(self) -> int | None:
        """As that of `Placed`."""
        return self._placed.row_pitch

    def is_on(self, index: int) -> bool:
        """Whether it is on the GPU of this number."""
        return self._placed.device[1] == index

    def make_ready(self, device: CudaDevice, stream: int) -> None:
        """Let the next work of `stream` wait until the data is there; raises EngineRunError."""
        if self._taken is None:
            after = getattr(self._source, CUDA_INTERFACE).get("stream", LEGACY_STREAM)
            if after is not None:
                device.order(stream, int(after))
            return
        try:
            self._source.__dlpack__(stream=stream)  # the capsule goes: only the order is wanted
        except Exception as error:  # any library's own
            raise EngineRunError(
                f"the array, a {type(self._source).__name__}, cannot be ordered before a run: "
                f"{_said(error)}. Wait for its work, and pass it again."
            ) from error

    def numpy(self) -> NDArray[np.generic]:
        """Copy the data to the host, by its own library; raises ExchangeError."""
        source = self._source
        method = next((name for name in COPIERS if callable(getattr(source, name, None))), None)
        try:
            copied = getattr(source, method)() if method else np.from_dlpack(source, device="cpu")
            return np.asarray(copied)
        except Exception as error:  # any library's own
            raise ExchangeError(
                f"a {type(source).__name__} on a GPU cannot be copied to the host: "
                f"{_said(error)}. Copy it into a numpy array."
            ) from error


@runtime_checkable
class Keeper(Protocol):
    """An engine on a GPU that takes arrays of other libraries into its memory."""

    def keep(self, array: ForeignTensor, columns: int) -> CudaTensor | None:
        """Copy an array HxWxC within the GPU into the left of one with `columns` columns.

        None where it is on another GPU, or its rows have gaps.
        """
        ...


def _interface_place(source: Any) -> Placed:
    """Read `__cuda_array_interface__`, versions 2 and 3."""
    found = getattr(source, CUDA_INTERFACE)
    try:
        dtype = np.dtype(found["typestr"])
        strides = found.get("strides")
        return Placed(
            (CUDA, _device_of(source)),
            int(found["data"][0] or 0),
            tuple(int(size) for size in found["shape"]),
            dtype,
            None if strides is None else tuple(int(step) // dtype.itemsize for step in strides),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ExchangeError(
            f"the {CUDA_INTERFACE} of a {type(source).__name__} is not of version 2 or 3: "
            f"{_said(error)}. Copy it into a numpy array."
        ) from error


def _device_of(source: Any) -> int:
    """Return the GPU's number; the interface does not say it, objects may."""
    device = getattr(source, "device", None)
    number = getattr(device, "id", getattr(device, "index", device))
    return number if isinstance(number, int) and not isinstance(number, bool) else 0


def _said(error: Exception) -> str:
    """Return what another library's error says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_MESSAGE].rstrip(". ")
