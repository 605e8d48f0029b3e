"""JSON files of data sets, checked against a type."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from samclip.errors import InputError

T = TypeVar("T")


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """Read a JSON file as `kind`; raises InputError that says what was `expected`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Expected {expected}."
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not {expected}: {error}.") from error
