"""How much memory it takes: the peak of a fresh process that went so far and no further."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.elements import Child, el, table
from samclip.benchmarks.html.numbers import MEBIBYTES, MIB, NONE, mebibytes
from samclip.benchmarks.html.plots import Series, bars
from samclip.benchmarks.html.sources import Sources


def memory_section(sources: Sources) -> Iterator[Element]:
    """Give the section, nothing where no memory was measured."""
    found = list(sources.memory())
    if not found:
        return
    yield el("h2", "How much memory it takes", id="memory")
    yield el(
        "p",
        "Highest resident set of a fresh process for each stage, those before it included; the "
        "highest of several processes.",
        class_="soft",
    )
    plots = []
    for place, model in enumerate(dict.fromkeys(name for name, _ in found)):
        series = [
            Series(use.stage, [use.peak_rss / MIB], place) for name, use in found if name == model
        ]
        drawing = bars(series, MEBIBYTES, f"Peak memory of {model} in MiB, by stage")
        plots.append(el("figure", el("h3", model), drawing))
    yield el("div", *plots, class_="plots")
    rows: list[list[Child]] = [
        [
            model,
            use.stage,
            mebibytes(use.peak_rss),
            str(len(use.peaks)),
            NONE if use.disk is None else mebibytes(use.disk),
            NONE if use.device_memory is None else mebibytes(use.device_memory),
        ]
        for model, use in found
    ]
    head = ["model", "stage", "peak", "processes", "read from disk", "GPU"]
    yield el("details", el("summary", "All figures of memory"), table(head, rows, left=2))
    for reason in sorted({use.device_reason for _, use in found if use.device_reason}):
        yield el("p", f"GPU memory: {reason}", class_="soft")
