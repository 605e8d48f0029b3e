"""JSON that every parser reads, and escapes for characters that cannot be written."""

from __future__ import annotations

import json
import math
import re
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, or a byte of a file's name
BYTES_OF_NAMES = range(0xDC80, 0xDD00)  # PEP 383: the byte plus 0xDC00


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON: that of `to_plain`; raises TypeError for what is not plain."""
    return json.dumps(to_plain(value), indent=indent, allow_nan=False)


def to_plain(value: Any) -> Any:
    r"""Return `value` in the types that JSON has.

    NaN and infinity, which JSON does not have, become None. Numbers and arrays of numpy become
    Python's. Lone surrogates, which are not valid Unicode, become escapes: bytes of a file's name
    that are not UTF-8 such as `\xff`.
    """
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, str):
        return SURROGATE.sub(escape_match, value)
    if isinstance(value, float):
        return finite(value)
    return to_plain(value.tolist()) if hasattr(value, "tolist") else value


def finite(number: float) -> float | None:
    """Return a number, also one of numpy, as float; None for NaN and infinity."""
    return float(number) if math.isfinite(number) else None


def escape_match(match: re.Match[str]) -> str:
    r"""Return the character that a pattern found as an escape: `\x1b`, `\u676f`, `\U0001f600`.

    A byte of a file's name that is not UTF-8 is `\x` and the byte.
    """
    code = ord(match[0])
    if code in BYTES_OF_NAMES:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
