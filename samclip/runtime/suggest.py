"""The "did you mean ...?" of error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_COMPARED = 64  # characters; longer strings are no slip of the keyboard, and slow to compare


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Write " (did you mean 'x'?)" for the closest known word, or nothing when none is close."""
    if len(word) > MAX_COMPARED:
        return ""
    by_lower = {name.lower(): name for name in known if len(name) <= MAX_COMPARED}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
