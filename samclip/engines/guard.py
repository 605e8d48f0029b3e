"""What every engine refuses before its library sees a call, and how it says that a run failed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from samclip.errors import ClosedError, EngineRunError

Held = TypeVar("Held")


@dataclass(frozen=True)
class Guard:
    """The checks of an engine of `graph`; made with the engine, in the process that may run it."""

    graph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    process: int = field(default_factory=os.getpid)

    def check_open(self, held: Held | None) -> Held:
        """Give what the engine holds until it is closed.

        Raises ClosedError when that is None; EngineRunError in a forked child, which would wait
        forever for threads that stayed in the parent.
        """
        if held is None:
            raise ClosedError(f"the engine of {self.graph!r} is closed. Load the model again.")
        if os.getpid() != self.process:
            raise EngineRunError(
                f"the engine of {self.graph!r} was loaded before the process forked. "
                "Load the model in the child."
            )
        return held

    def check_names(self, feeds: Collection[str], outputs: Sequence[str] | None) -> tuple[str, ...]:
        """Give the outputs to compute, all for None.

        Raises EngineRunError for those that the graph lacks, and for feeds that are not exactly
        its inputs.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        if not set(names) <= set(self.outputs):
            raise self._misnamed("outputs", names, self.outputs)
        if set(feeds) != set(self.inputs):
            raise self._misnamed("inputs", feeds, self.inputs)
        return names

    def failed(self, reason: str) -> EngineRunError:
        """Make the error of a run that failed; `reason` is what the library says."""
        return EngineRunError(
            f"the graph {self.graph!r} failed: {reason}. Check the shapes of its inputs, and the "
            "memory that is free."
        )

    def _misnamed(self, what: str, got: Iterable[str], known: Iterable[str]) -> EngineRunError:
        return EngineRunError(
            f"the graph {self.graph!r} has the {what} {', '.join(known)}; "
            f"asked with {', '.join(got) or 'none'}. Name those it has."
        )
