"""The whole page."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from samclip.benchmarks.html.amortised_section import amortised_section
from samclip.benchmarks.html.baselines_section import baselines_section
from samclip.benchmarks.html.caveats import caveats
from samclip.benchmarks.html.elements import el, to_html
from samclip.benchmarks.html.energy_section import energy_section
from samclip.benchmarks.html.headline import headline
from samclip.benchmarks.html.latency_section import latency_section
from samclip.benchmarks.html.memory_section import memory_section
from samclip.benchmarks.html.peers_section import peers_section
from samclip.benchmarks.html.provenance_section import provenance_section
from samclip.benchmarks.html.roofline_section import roofline_section
from samclip.benchmarks.html.rows_section import rows_section
from samclip.benchmarks.html.sources import Sources
from samclip.benchmarks.html.stage_section import stage_section
from samclip.benchmarks.html.style import STYLE
from samclip.benchmarks.html.tradeoff_section import tradeoff_section
from samclip.version import __version__

SECTIONS = (
    latency_section,
    stage_section,
    tradeoff_section,
    baselines_section,
    amortised_section,
    memory_section,
    energy_section,
    roofline_section,
    peers_section,
    rows_section,
    provenance_section,
)
# Nothing is loaded and nothing runs, whatever a report's names hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(sources: Sources) -> str:
    """Write the page of one report or several; nothing in it is loaded from elsewhere."""
    title = _title(sources)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        el("style", STYLE),
    )
    body = el("body", el("h1", title), el("p", _byline(sources), class_="soft"))
    body.extend(_body(sources))
    body.append(el("p", f"Made by samclip {__version__}, samclip-bench report.", class_="soft"))
    return to_html(el("html", head, body, lang="en"))


def _body(sources: Sources) -> Iterator[Element]:
    yield from headline(sources)
    for line in caveats(sources):
        yield el("p", line, class_="note")
    for section in SECTIONS:
        yield from section(sources)


def _title(sources: Sources) -> str:
    """Name what was measured and how: "samclip-tiny: latency and memory"."""
    models = list(dict.fromkeys(s.name for source in sources.all for s in source.report.subjects))
    kinds = list(dict.fromkeys(source.report.benchmark for source in sources.all))
    shown = ", ".join(models[:3]) + (" and others" if len(models) > 3 else "")
    return f"{shown}: {_joined(kinds)}" if models else _joined(kinds)


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _byline(sources: Sources) -> str:
    days = sorted({_day(source.report.date) for source in sources.all})
    versions = sorted({source.report.samclip for source in sources.all})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    reports = "1 report" if len(sources.all) == 1 else f"{len(sources.all)} reports"
    return f"{span}, {reports}, samclip {', '.join(versions)}"


def _day(date: str) -> str:
    """Give the day of a report's date, or the text itself where it is none."""
    try:
        return datetime.datetime.fromisoformat(date).strftime("%Y-%m-%d")
    except ValueError:
        return date
