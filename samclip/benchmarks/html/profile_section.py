"""The section on where the time of graphs goes: a flame graph and tables for each graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import SERIES, bullets, el, folded, show_table
from samclip.benchmarks.html.flame import flame, operator_colours
from samclip.benchmarks.html.named_reports import NamedReports
from samclip.benchmarks.measurements import GraphProfile
from samclip.benchmarks.profiling.operators import (
    describe,
    nodes_table,
    operators_table,
    sum_operators,
)
from samclip.benchmarks.profiling.stacks import build_frames

NODES = 25  # of each graph, in the table that is folded away


def profile_section(reports: NamedReports) -> Iterator[Element]:
    """Return the section, nothing where no graph was profiled."""
    for named in reports.all:
        profiles = named.report.profiles
        if profiles:
            yield el("h2", "Where the time goes", id="profile")
            yield el(
                "p",
                "A frame is as wide as its share of the time: graphs, in them modules, operators, "
                "and nodes in the order in which they ran. Hover over a frame to read it.",
                class_="soft",
            )
            for profile in profiles:
                yield from _graph(profile)
            yield folded("How these times were taken", bullets(named.report.protocol))


def _graph(profile: GraphProfile) -> Iterator[Element]:
    colours = operator_colours(tuple(one.operator for one in sum_operators(profile)))
    yield el("h3", describe(profile))
    drawing = flame(build_frames(profile), colours, f"Flame graph of {describe(profile)}")
    yield el("div", el("div", drawing, class_="wide"), class_="scroll")
    yield _keys(colours)
    yield show_table(operators_table(profile))
    yield folded("The slowest nodes", show_table(nodes_table(profile, NODES)))


def _keys(colours: Mapping[str, str]) -> Element:
    """List the operators that have a separate colour."""
    keys = []
    for operator, colour in list(colours.items())[:SERIES]:
        keys += [
            el("span", class_="key", style=f"background:{colour}"),
            el("span", f"{operator}  "),
        ]
    return el("p", *keys, class_="soft keys")
