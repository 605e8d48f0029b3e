"""Times of single nodes: what an engine reports that was loaded with `EngineOptions.profile`.

Nodes are those that the library runs: it folds constants, fuses operators and adds nodes that
change the layout of tensors. `NodeTime.originals` are the nodes of the ONNX graph that one of them
computes, where the library says so; else its name alone is a hint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from samclip.errors import EngineRunError


@dataclass(frozen=True)
class NodeTime:
    """One node in one run: `seconds` of it alone.

    `kernel`: which of the library's kernels computed it. `shapes`: of its inputs and outputs, as
    "1x3x64x64 -> 1x8x32x32", or of its outputs alone; empty where the library does not say.
    """

    name: str
    operator: str
    seconds: float
    kernel: str = ""
    shapes: str = ""
    originals: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProfiledRun:
    """One run of a graph, in `seconds` from the library's begin to its end, and its nodes in order.

    What the nodes do not add up to is spent between them.
    """

    seconds: float
    nodes: tuple[NodeTime, ...]

    @property
    def between(self) -> float:
        """Seconds that no node took."""
        return self.seconds - sum(node.seconds for node in self.nodes)


@runtime_checkable
class Profiled(Protocol):
    """An engine that may have been loaded with `EngineOptions.profile`."""

    def end_profile(self) -> tuple[ProfiledRun, ...]:
        """Return all runs so far, the first of them first; later runs are not profiled.

        Raises EngineRunError where it was loaded without, or when the profile cannot be read.
        """
        ...


def not_profiled(graph: str) -> EngineRunError:
    """Return the error of a profile that is asked of an engine that keeps none."""
    return EngineRunError(
        f"the engine of {graph!r} keeps no profile, or its profile was ended. Load it with "
        "EngineOptions(profile=True)."
    )


def write_shape(dims: tuple[int, ...]) -> str:
    """Write a shape as "1x3x64x64"; a single number has none."""
    return "x".join(map(str, dims)) or "scalar"
