"""The frames of a flame graph: a graph, its modules, operators in them, and single nodes.

A node without a module stands under its operator, right below the graph. Frames are in the order in
which their first nodes ran. `fold` writes them as Brendan Gregg's folded stacks, which speedscope,
inferno and flamegraph.pl read: https://github.com/brendangregg/FlameGraph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from samclip.benchmarks.measurements import GraphProfile, NodeProfile

BETWEEN = "between nodes"
ROOT = "samclip"  # the outermost frame of folded stacks
MICRO = 1e6
Kind = Literal["graph", "module", "operator", "node", "between"]


@dataclass
class Frame:
    """A frame with all that runs in it: `seconds` includes those of its children.

    `operator`: of frames of operators and nodes.
    """

    name: str
    kind: Kind
    operator: str = ""
    seconds: float = 0.0
    children: dict[tuple[Kind, str], Frame] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How many frames stand on each other, this one included."""
        return 1 + max((child.depth for child in self.children.values()), default=0)

    def child(self, kind: Kind, name: str, operator: str = "") -> Frame:
        """Return the child of this kind and name, made if it is not there."""
        return self.children.setdefault((kind, name), Frame(name, kind, operator))


def build_frames(profile: GraphProfile) -> Frame:
    """Put the nodes of a graph together; what was spent between them is a frame at the end."""
    root = Frame(profile.graph, "graph")
    for node in profile.nodes:
        seconds = profile.time(node.samples)
        for frame in _stack(root, node):
            frame.seconds += seconds
    between = root.child("between", BETWEEN)
    between.seconds = profile.time(profile.between)
    root.seconds += between.seconds
    return root


def _stack(root: Frame, node: NodeProfile) -> Iterator[Frame]:
    yield root
    frame = root
    for part in node.scope:
        frame = frame.child("module", part)
        yield frame
    frame = frame.child("operator", node.operator, node.operator)
    yield frame
    yield frame.child("node", node.name, node.operator)


def fold(profiles: Iterable[GraphProfile]) -> str:
    """Write profiles as folded stacks, one a line, in whole microseconds; those of 0 are left out.

    The frames are "samclip", the model, the graph, and those of the graph.
    """
    lines = []
    for profile in profiles:
        above = (ROOT, profile.model)
        lines += [
            f"{';'.join(map(_plain, (*above, *names)))} {micros}"
            for names, micros in _leaves(build_frames(profile))
            if micros
        ]
    return "".join(f"{line}\n" for line in lines)


def _leaves(frame: Frame) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the stacks that end in nodes, with their microseconds."""
    if not frame.children:
        yield (frame.name,), round(frame.seconds * MICRO)
    for child in frame.children.values():
        for names, micros in _leaves(child):
            yield (frame.name, *names), micros


def _plain(name: str) -> str:
    """Take out of a name what ends a frame or a line."""
    return " ".join(name.replace(";", ",").split()) or "-"
