"""OpenVINO's times of nodes, and the nodes of the ONNX graph that each of them computes.

Times come from a request after each run. What a node was made from, and its shapes, are in the
compiled model's description of itself, which is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from samclip.engines.profile import NodeTime, write_shape

ORIGINALS = "originalLayersNames"


class NodeTimes:
    """The times of nodes in the runs of one compiled model, from its first run on.

    OpenVINO gives the mean of all runs so far, in whole microseconds. The time of a run is what it
    adds to their sum, which is right to as many microseconds as there were runs.
    """

    def __init__(self) -> None:
        self._runs = 0
        self._sums: dict[str, float] = {}

    def of_run(self, information: Iterable[Any]) -> tuple[NodeTime, ...]:
        """Return the nodes that ran, of a request's `profiling_info`, asked after each run."""
        self._runs += 1
        return tuple(self._of_node(node) for node in information if node.status == node.EXECUTED)

    def _of_node(self, node: Any) -> NodeTime:
        before = self._sums.get(node.node_name, 0.0)
        now = self._sums[node.node_name] = node.real_time.total_seconds() * self._runs
        seconds = max(0.0, now - before)
        return NodeTime(node.node_name, node.node_type, seconds, kernel=node.exec_type)


@dataclass(frozen=True)
class Described:
    """The originals and shapes of a compiled model's nodes, by name."""

    originals: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, str]

    def complete(self, node: NodeTime) -> NodeTime:
        """Return a node with all that is known of it."""
        originals = self.originals.get(node.name, ())
        return replace(node, originals=originals, shapes=self.shapes.get(node.name, ""))


def read_nodes(model: Any) -> Described:
    """Read the description of a compiled model, its `get_runtime_model()`."""
    originals, shapes = {}, {}
    for node in model.get_ordered_ops():
        name, info = node.get_friendly_name(), node.get_rt_info()
        listed = str(info[ORIGINALS].value) if ORIGINALS in info else ""
        originals[name] = tuple(one for one in listed.split(",") if one)
        shapes[name] = ", ".join(_shape(output.get_partial_shape()) for output in node.outputs())
    return Described(originals, shapes)


def _shape(dims: Any) -> str:
    """Write the shape of the last run; "?" where there was none."""
    return write_shape(tuple(dims.to_shape())) if dims.is_static else "?"
