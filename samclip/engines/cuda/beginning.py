"""A tensor on a GPU as the beginning of a larger input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.cuda.driver import CudaDevice
from samclip.engines.cuda.memory import CudaTensor, size_of


class Beginning:
    """An input of `shape` whose first bytes are those of `tensor`; what follows is undefined.

    For graphs that do not read the rest, such as encoders of uint8 pixels behind the photo's rows.
    """

    is_contiguous = True

    def __init__(self, tensor: CudaTensor, shape: tuple[int, ...]) -> None:
        self._tensor = tensor
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        dtype: np.dtype[Any] = self._tensor.dtype
        return dtype

    @property
    def nbytes(self) -> int:
        """The size of the whole input in bytes."""
        return size_of(self._shape, self.dtype)

    @property
    def known_bytes(self) -> int:
        """The size of its beginning, which the tensor gives."""
        return self._tensor.nbytes

    @property
    def address(self) -> int:
        """The address of its beginning."""
        return self._tensor.address

    def is_on(self, index: int) -> bool:
        """Whether it is on the GPU of this number, and in this process."""
        return self._tensor.is_on(index)

    def make_ready(self, device: CudaDevice, stream: int) -> None:
        """As that of the tensor."""
        self._tensor.make_ready(device, stream)

    def numpy(self) -> NDArray[np.generic]:
        """Copy it to the host, the rest as zeros; raises EngineRunError."""
        whole = np.zeros(math.prod(self._shape), self.dtype)
        known = self._tensor.numpy().reshape(-1)
        whole[: known.size] = known
        return whole.reshape(self._shape)
