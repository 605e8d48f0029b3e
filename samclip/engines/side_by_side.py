"""Several engines of one graph as one, for runs at once on engines that serve one caller at a time.

Each has its own threads and its own memory, the weights included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Engine, Tensor


class SideBySide:
    """Runs on whichever of `count` engines is free; a caller waits where none is.

    `load` makes one engine. What it raises is raised, and the engines made before are closed.
    """

    def __init__(self, load: Callable[[], Engine], count: int) -> None:
        self._free: SimpleQueue[Engine] = SimpleQueue()  # a signal handler may come in between
        with ExitStack() as made:
            engines = []
            for _ in range(count):
                engines.append(load())
                made.callback(engines[-1].close)
            made.pop_all()
        self._engines = tuple(engines)
        for engine in engines:
            self._free.put(engine)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs, all of which `run` needs."""
        return self._engines[0].input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in its order."""
        return self._engines[0].output_names

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` (None: all) by an engine that is free; raises what it raises."""
        engine = self._free.get()
        try:
            return engine.run(feeds, outputs)
        finally:
            self._free.put(engine)

    def close(self) -> None:
        """Close all engines; further calls do nothing."""
        for engine in self._engines:
            engine.close()
