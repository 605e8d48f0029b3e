"""The optional packages of this folder, each imported in one place: pyarrow and Ray."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from samclip.errors import CapabilityError


def import_pyarrow() -> Any:
    """Return pyarrow with its parquet; raises CapabilityError when it is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise CapabilityError(
            "this needs the package pyarrow. Install it: pip install 'samclip[batch]'."
        ) from error
    return pa


def has_ray() -> bool:
    """Whether Ray and its Data library can be imported here."""
    return all(find_spec(name) is not None for name in ("ray", "pyarrow", "pandas"))


def import_ray() -> Any:
    """Return Ray with its Data library; raises CapabilityError when it is not installed."""
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise CapabilityError(
            "this needs Ray with its Data library. Install them: pip install 'samclip[ray]'."
        ) from error
    return ray
