"""Arrays of OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Tensor
from samclip.errors import EngineRunError


class OvTensor:
    """An output of OpenVINO; it outlives the engine that made it, and no later run changes it."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return self._array.shape

    def numpy(self) -> NDArray[np.generic]:
        """Give the data, which lies on the host already."""
        return self._array


def to_ov_tensor(
    library: Any, name: str, feed: NDArray[np.generic] | Tensor, expected: np.dtype[Any]
) -> Any:
    """Give a feed as OpenVINO's `Tensor`, without copying where dtype and order allow it.

    `expected` is the dtype of the input; none is converted. Raises EngineRunError.
    """
    array = feed if isinstance(feed, np.ndarray) else feed.numpy()
    if array.dtype != expected:
        raise _wrong_type(name, array.dtype, expected)
    ordered = np.asarray(array, order="C")
    return library.Tensor(ordered, shared_memory=ordered.size > 0 and ordered.flags.writeable)


def _wrong_type(name: str, got: np.dtype[Any], expected: np.dtype[Any]) -> EngineRunError:
    return EngineRunError(
        f"the input {name!r} is {got}, expected {expected}. Convert it: array.astype('{expected}')."
    )
