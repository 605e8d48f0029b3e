"""Tables of the time inside graphs, by operator and by node, and its rows in reports."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan

from samclip.benchmarks.formats import digits, milliseconds, percent
from samclip.benchmarks.measurements import GraphProfile, NodeProfile
from samclip.benchmarks.profiling.stacks import BETWEEN
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import Estimate, median
from samclip.benchmarks.tables import Column, Table, text_columns

WHOLE = "whole run"
LEAST = 0.0005  # operators with smaller shares are shown as one
OPERATOR_COLUMNS = (
    *text_columns("operator"),
    Column("nodes", "{:,}".format),
    Column("ms a run", milliseconds),
    Column("share", percent),
    Column("GMAC", lambda macs: digits(macs / 1e9)),
    Column("GFLOP/s", lambda rate: digits(rate / 1e9)),
)
NODE_COLUMNS = (
    *text_columns("node", "operator", "module", "shapes"),
    Column("ms a run", milliseconds),
    Column("share", percent),
    Column("GFLOP/s", lambda rate: digits(rate / 1e9)),
)
PROTOCOL = (
    "Nodes are those that the library runs: constants are folded, operators are fused, and nodes "
    "that change the layout of tensors are added. Times are of a photo's tasks, after one round to "
    "warm up, with the settings that samclip runs with.",
    "'ms a run': the median over the runs of each node, summed; with --best its fastest run, which "
    "other work on the machine disturbs least. 'share': of the sum of all nodes and of what is "
    "between them.",
    f"'{BETWEEN}': what a run takes besides its nodes: choosing them, making room, waking threads. "
    f"'{WHOLE}': a run from its begin to its end; the parts, each by its own middle run, need not "
    "add up to it.",
    "GMAC: multiply-accumulates of products, counted from the ONNX graph; one is two operations. "
    "A module is named by the parameters that a node reads, or by those around it.",
)


@dataclass(frozen=True)
class OperatorTime:
    """The nodes of one operator: `seconds` a run, and `macs`, None where they were not counted."""

    operator: str
    nodes: int
    seconds: float
    macs: int | None

    @property
    def rate(self) -> float | None:
        """Operations per second; None for operators that multiply nothing."""
        return _rate(self.macs, self.seconds)


def sum_operators(profile: GraphProfile) -> tuple[OperatorTime, ...]:
    """Add up the nodes of each operator, the slowest operator first."""
    by_name: dict[str, list[NodeProfile]] = {}
    for node in profile.nodes:
        by_name.setdefault(node.operator, []).append(node)
    found = [
        OperatorTime(
            operator=operator,
            nodes=len(nodes),
            seconds=sum(profile.time(node.samples) for node in nodes),
            macs=_sum_macs(nodes),
        )
        for operator, nodes in by_name.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.seconds))


def total_seconds(profile: GraphProfile) -> float:
    """Add up the shown time of all nodes, and of what is between them: what shares are of."""
    nodes = sum(profile.time(node.samples) for node in profile.nodes)
    return nodes + profile.time(profile.between)


def operators_table(profile: GraphProfile) -> Table:
    """Lay out the time of a graph by operator, with what is between nodes and the whole run."""
    total, whole = total_seconds(profile), profile.time(profile.samples)
    between = profile.time(profile.between)
    shown, others = _split(sum_operators(profile), total * LEAST)
    rows: list[tuple[str | float | None, ...]] = [
        (one.operator, one.nodes, one.seconds, one.seconds / total, one.macs or None, one.rate)
        for one in (*shown, *others)
    ]
    rows.append((BETWEEN, None, between, between / total, None, None))
    rate = _rate(profile.macs, whole)
    rows.append((WHOLE, len(profile.nodes), whole, None, profile.macs, rate))
    return Table(OPERATOR_COLUMNS, rows, title=describe(profile))


def _split(
    operators: Sequence[OperatorTime], least: float
) -> tuple[Sequence[OperatorTime], Sequence[OperatorTime]]:
    """Return operators that take as long as `least`, and all others as one, if there are several.

    `operators`: the slowest first.
    """
    shown = [one for one in operators if one.seconds >= least]
    others = operators[len(shown) :]
    if len(others) < 2:
        return operators, ()
    counted = [one.macs for one in others if one.macs is not None]
    together = OperatorTime(
        operator=f"{len(others)} others",
        nodes=sum(one.nodes for one in others),
        seconds=sum(one.seconds for one in others),
        macs=sum(counted) if counted else None,
    )
    return shown, (together,)


def nodes_table(profile: GraphProfile, count: int) -> Table:
    """Lay out the slowest nodes of a graph."""
    total = total_seconds(profile)
    slowest = heapq.nlargest(count, profile.nodes, key=lambda node: profile.time(node.samples))
    rows = []
    for node in slowest:
        seconds = profile.time(node.samples)
        rate = _rate(node.macs, seconds)
        rows.append((node.name, node.operator, ".".join(node.scope), node.shapes, seconds,
                     seconds / total, rate))  # fmt: skip
    return Table(NODE_COLUMNS, rows, title=f"the slowest nodes: {describe(profile)}")


def describe(profile: GraphProfile) -> str:
    """Name a graph, what ran it, and how its times were taken."""
    runs = f"{profile.statistic} of {len(profile.samples)} runs"
    return f"{profile.graph} of {profile.model}, {profile.backend}, {profile.precision}, {runs}"


def make_rows(profiles: Iterable[GraphProfile]) -> tuple[Row, ...]:
    """Return the seconds of each operator, of what is between nodes, and of the whole run.

    Of an operator, the runs are compared by the sum of its nodes in each of them.
    """
    return tuple(row for profile in profiles for row in _rows(profile))


def _rows(profile: GraphProfile) -> Iterator[Row]:
    for one in sum_operators(profile):
        nodes = [node for node in profile.nodes if node.operator == one.operator]
        sums = [sum(run) for run in zip(*(node.samples for node in nodes), strict=True)]
        yield _row(profile, f"operator {one.operator}", sums)
    yield _row(profile, BETWEEN, profile.between)
    yield _row(profile, WHOLE, profile.samples)


def _row(profile: GraphProfile, measure: str, samples: Sequence[float]) -> Row:
    if profile.statistic == "minimum":
        estimate = Estimate(min(samples), nan, nan, len(samples), 1)  # its spread is not known
    else:
        estimate = median(samples)
    return make_row(profile.model, measure, profile.graph, estimate, "seconds", detail=True)


def _sum_macs(nodes: Iterable[NodeProfile]) -> int | None:
    counted = [node.macs for node in nodes if node.macs is not None]
    return sum(counted) if counted else None


def _rate(macs: int | None, seconds: float) -> float | None:
    return 2 * macs / seconds if macs and seconds > 0 else None
