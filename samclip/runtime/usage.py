"""Who uses what will be closed: closing waits for those under way, whatever interrupts them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from samclip.errors import ClosedError

LOOK_SECONDS = 0.5  # how often closing looks for uses that ended without a word


class _Use:
    """One use under way."""


class Usage:
    """Knows the uses of what is to be freed, once closed and no longer used.

    Any method may be called from any thread, and from a signal's handler that interrupts a use.
    What frees is given to each call, as holding it would keep its owner alive; it may be called
    twice, and must then do nothing.
    """

    def __init__(self) -> None:
        # Re-entrant, for handlers of signals; and taken itself, because Ctrl-C during the steps of
        # `Condition.__exit__`, which is Python's, would leave it locked.
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._threads: WeakKeyDictionary[_Use, int] = WeakKeyDictionary()  # of uses under way
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @contextmanager
    def hold(self, free: Callable[[], None]) -> Iterator[None]:
        """Hold off the freeing while the block runs; raises ClosedError after `close`.

        Ctrl-C may raise between any two steps: a use is taken off even when it was not yet put on,
        and one that could not be taken off ends with this call's frame.
        """
        use = _Use()
        try:
            with self._lock:
                if self._closed:
                    raise ClosedError("the model is closed. Load it again with samclip.load().")
                self._threads[use] = threading.get_ident()
            yield
        finally:
            with self._lock:
                self._threads.pop(use, None)
                self._ended.notify_all()
                is_last = self._closed and not self._threads
            if is_last:
                free()

    def close(self, free: Callable[[], None]) -> None:
        """Refuse new uses, wait for those of other threads, free; again: wait likewise.

        A use of this thread cannot end before its caller: the use itself frees when it ends.
        """
        me = threading.get_ident()
        with self._lock:
            self._closed = True
            while any(thread != me for thread in list(self._threads.values())):
                self._ended.wait(LOOK_SECONDS)
            is_free = not self._threads
        if is_free:
            free()

    def abandon(self) -> None:
        """Refuse new uses and free nothing: in a forked child all of it is the parent's."""
        self._closed = True
