"""Checks of arrays, numbers and switches that callers pass in, with one error for each."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.errors import ImageError, InputError, PromptError, brief
from samclip.library_errors import is_library_error

# What numpy, and the `__array__` of tensors, raise about what they cannot convert.
REFUSALS = (TypeError, ValueError, RuntimeError, OverflowError)
LOOKED_AT = 64  # items of a list that may be masked arrays


def as_array(
    value: Any,
    name: str,
    expected: str,
    *,
    dtype: type[np.generic] | None = None,
    error: type[InputError] = PromptError,
) -> NDArray[Any]:
    """Return `value` as an array, without a copy where it is one already.

    `expected`: what `name` must be, for the message. Raises `error` for rows of unequal length, for
    what numpy cannot convert, as tensors on a GPU, and for masked arrays that hide numbers.
    """
    items = value[:LOOKED_AT] if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(item, np.ma.MaskedArray) and np.ma.is_masked(item) for item in items):
        raise error(
            f"{name} is a masked array, and what it masks cannot be left out. Choose the numbers "
            "first, as with .compressed(), or fill them with .filled()."
        )
    try:
        return np.asarray(value, dtype)
    except REFUSALS as cause:
        if type(cause) not in REFUSALS and not is_library_error(cause, "numpy", "torch"):
            raise
        unequal = isinstance(cause, ValueError) and "inhomogeneous" in str(cause)
        reason = "got rows of unequal shape" if unequal else f"numpy says: {cause!s:.200}"
        raise error(f"{name} must be {expected}; {reason}.") from cause


def as_pixels(image: Any) -> NDArray[Any]:
    """Return an image as an array HxWx3; ImageError for what is not one, as a path."""
    pixels = as_array(image, "image", "one array HxWx3", error=ImageError)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageError(
            f"image must be HWC with 3 channels; got shape {pixels.shape}. Pass HxWx3."
        )
    return pixels


def as_flag(value: Any, name: str, error: type[InputError] = InputError) -> bool:
    """Return a switch as bool; `error` for anything but True, False, 1 and 0.

    Text such as "no" would else count as True.
    """
    is_number = isinstance(value, (bool, np.bool_, int, np.integer))
    if not is_number or value not in {0, 1}:
        raise error(f"{name} must be True or False; got {brief(value)}.")
    return bool(value)


def as_whole(value: Any, name: str, least: int, error: type[InputError] = InputError) -> int:
    """Return a whole number of at least `least` as int; raises `error`. A bool is not a number."""
    number = as_number(value, name, least, error, kind="a whole number")
    if number != int(number):
        raise error(f"{name} must be a whole number; got {brief(value)}.")
    return operator.index(value) if hasattr(value, "__index__") else int(number)


def as_number(
    value: Any,
    name: str,
    least: float,
    error: type[InputError] = InputError,
    kind: str = "a number",
) -> float:
    """Return a finite number of at least `least` as float; raises `error`."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    number = math.nan
    if is_number and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int without end
            number = math.inf
    if not math.isfinite(number) or number < least:
        raise error(f"{name} must be {kind} of at least {least:g}; got {brief(value)}.")
    return number
