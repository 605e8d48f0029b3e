"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600.0  # seconds, far beyond what is expected on a busy machine


def wait_until(happened: Callable[[], object], what: str = "nothing happened in time") -> None:
    """Wait until something is true; AssertionError, which says `what`, after a long time."""
    until = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < until, what
        time.sleep(0.02)
