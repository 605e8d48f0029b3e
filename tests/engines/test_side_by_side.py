"""Several engines of one graph as one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from samclip.engines.base import ArrayTensor, Tensor
from samclip.engines.side_by_side import SideBySide
from samclip.errors import EngineRunError


class Counted:
    """An engine that serves one caller at a time: it says so when there are two."""

    input_names, output_names = ("x",), ("y",)

    def __init__(self, together: threading.Barrier) -> None:
        self.closed = 0
        self._together = together
        self._turn = threading.Lock()

    def run(self, feeds: Mapping[str, Any], outputs: Any = None) -> dict[str, Tensor]:
        del outputs
        assert self._turn.acquire(blocking=False), "two callers at once"
        try:
            if feeds["x"] < 0:
                raise EngineRunError("negative")
            self._together.wait(10)  # for a run of the other engine
            return {"y": ArrayTensor(np.asarray([feeds["x"]]))}
        finally:
            self._turn.release()

    def close(self) -> None:
        self.closed += 1


def test_as_many_runs_at_once_as_engines_and_no_more() -> None:
    together = threading.Barrier(2)
    made = [Counted(together) for _ in range(2)]
    left = list(made)
    engine = SideBySide(lambda: left.pop(0), 2)
    assert (engine.input_names, engine.output_names) == (("x",), ("y",))
    for _ in range(3):  # an engine that fails is free again
        with pytest.raises(EngineRunError, match="negative"):
            engine.run({"x": np.float32(-1)})
    with ThreadPoolExecutor(6) as threads:
        feeds = [{"x": np.float32(each)} for each in range(12)]
        found = [each["y"].numpy().item() for each in threads.map(engine.run, feeds, timeout=30)]
    assert found == list(range(12))
    engine.close()
    assert [each.closed for each in made] == [1, 1]


def test_what_was_made_before_a_failure_is_closed() -> None:
    first = Counted(threading.Barrier(1))
    left: list[Counted | None] = [first, None]

    def load() -> Counted:
        engine = left.pop(0)
        if engine is None:
            raise EngineRunError("no memory")
        return engine

    with pytest.raises(EngineRunError, match="no memory"):
        SideBySide(load, 2)
    assert first.closed == 1
