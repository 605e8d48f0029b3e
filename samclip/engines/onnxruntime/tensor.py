"""Arrays on ONNX Runtime's devices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Tensor
from samclip.errors import EngineRunError

# what `session.get_inputs()` calls the dtypes that graphs of bundles take
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}


class OrtTensor:
    """An output of ONNX Runtime, on its device; it outlives the engine that made it."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.type: str = value.data_type()

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return tuple(self._value.shape())

    @property
    def value(self) -> Any:
        """ONNX Runtime's own `OrtValue`."""
        return self._value

    def is_on(self, device: str) -> bool:
        """Whether it is on the kind of device called `device`: "cpu" or "cuda"."""
        return bool(self._value.device_name().lower() == device)

    def numpy(self) -> NDArray[np.generic]:
        """Bring the data to the host."""
        return np.asarray(self._value.numpy())


def to_ort_value(
    library: Any, name: str, feed: NDArray[np.generic] | Tensor, expected: str, device: str
) -> Any:
    """Give a feed as an `OrtValue`, without copying where dtype, order and device allow it.

    `expected` is ONNX Runtime's name of the input's type; no dtype is converted. Raises
    EngineRunError.
    """
    if isinstance(feed, OrtTensor) and (feed.is_on("cpu") or feed.is_on(device)):
        if feed.type != expected:
            raise _wrong_type(name, feed.type, expected)
        return feed.value
    array = feed if isinstance(feed, np.ndarray) else feed.numpy()
    if array.dtype != DTYPES.get(expected):
        raise _wrong_type(name, str(array.dtype), expected)
    return library.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))


def _wrong_type(name: str, got: str, expected: str) -> EngineRunError:
    wanted = DTYPES.get(expected, expected)
    return EngineRunError(
        f"the input {name!r} is {got}, expected {wanted}. Convert it: array.astype('{wanted}')."
    )
