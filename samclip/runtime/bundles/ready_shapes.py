"""The shapes of input whose engines are kept ready, where their number is bounded.

Each shape of a bundle has engines that take the memory of a model. A stream of mixed shapes would
hold those of all; with a bound, those of the shape that was used longest ago are freed for a new
one. Engines that a run is using stay, so the bound is passed while more shapes run at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from samclip.runtime.bundles.manifest import SHAPED_GRAPHS, Manifest, base_name

Canvas = tuple[int, int]


class ReadyShapes:
    """The order in which the shapes of a bundle were used, and which of them are in use.

    `limit`: how many may be ready; None for all, and then nothing is noted. Any method may be
    called from any thread, and from a signal handler that interrupts another.
    """

    def __init__(self, manifest: Manifest, limit: int | None) -> None:
        self._manifest = manifest
        self._limit = limit
        self._order: dict[Canvas, None] = {}  # of those that were used, the last one last
        self._uses: WeakKeyDictionary[_Use, Canvas] = WeakKeyDictionary()
        self.lock = threading.RLock()

    def shape_of(self, graph: str) -> Canvas | None:
        """Return the (h, w) that a graph is for; None for one that serves all shapes."""
        return self._manifest.canvas_of(graph) if base_name(graph) in SHAPED_GRAPHS else None

    @contextmanager
    def hold(self, graph: str) -> Iterator[None]:
        """Keep the engines of a graph's shape while the block runs, and note that it was used.

        An interruption may come between any two steps: a use that was not ended disappears with
        this call's frame, because the table refers to it weakly.
        """
        canvas = None if self._limit is None else self.shape_of(graph)
        if canvas is None:
            yield
            return
        use = _Use()
        try:
            with self.lock:
                self._uses[use] = canvas
                self._order.pop(canvas, None)
                self._order[canvas] = None
            yield
        finally:
            with self.lock:
                self._uses.pop(use, None)

    def surplus(self) -> tuple[Canvas, ...]:
        """Return the shapes to free, used longest ago first, and forget them.

        Call it within `lock`, and free them before the lock is given back: what is held from then
        on is loaded once more.
        """
        if self._limit is None:
            return ()
        used = {*self._uses.values()}
        idle = [canvas for canvas in self._order if canvas not in used]
        chosen = tuple(idle[: max(0, len(self._order) - self._limit)])
        for canvas in chosen:
            del self._order[canvas]
        return chosen


class _Use:
    """A token for one use under way."""
