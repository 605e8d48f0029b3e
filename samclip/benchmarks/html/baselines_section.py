"""One pass against SAM and a second model: the table of `accuracy baselines`."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.accuracy.comparison import comparisons
from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.report import Report

BASELINES = "accuracy baselines"


def baselines_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where no report is of that benchmark."""
    for source in sources.all:
        if source.report.benchmark == BASELINES:
            yield from _baselines_part(source.report)


def _baselines_part(report: Report) -> Iterator[Element]:
    untrained = {each.name for each in report.subjects if each.trained_head is False}
    found = list(comparisons(report.rows, untrained))
    if not found:
        return
    yield el("h2", "Masks with names: one pass, and two models in a row", id="baselines")
    for comparison in found:
        lines: list[list[Child]] = [list(line) for line in comparison.lines]
        yield el("h3", f"Prompt: {comparison.prompt}")
        yield table(list(comparison.head), lines)
