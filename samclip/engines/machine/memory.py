"""Memory that was freed but not given back."""

from __future__ import annotations

import ctypes
import platform


def release_free_memory() -> None:
    """Give the system what the C library keeps of freed memory; a few milliseconds.

    glibc keeps freed blocks below 32 MiB for itself: after loading a graph, or closing it, that
    may be as much as its weights. Elsewhere this does nothing.
    """
    if platform.system() != "Linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from musl
    if trim is not None:
        trim(ctypes.c_size_t(0))
