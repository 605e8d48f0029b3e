"""Elements of the page: HTML and SVG as a tree, the looks, and tables.

The serialiser escapes every text and attribute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, tostring

from samclip.benchmarks.formats import digits, seconds
from samclip.benchmarks.tables import Table

Child = Element | str | None
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # a browser may not be given them
SERIES = 10  # colours; the first are Okabe and Ito's, which any colour vision distinguishes
REST = "var(--rest)"  # of what is left over
# One column, the system's letters, light and dark.
STYLE = """
:root { color-scheme: light dark;
 --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --page: #ffffff; --card: #f6f8fa;
 --note: #fff4d6; --edge: #d4a72c;
 --c0: #0072b2; --c1: #e69f00; --c2: #009e73; --c3: #cc79a7; --c4: #56b4e9; --c5: #d55e00;
 --c6: #8c6bb1; --c7: #117f83; --c8: #8a6d1b; --c9: #b33a6f; --rest: #9aa1a8; }
@media (prefers-color-scheme: dark) { :root {
 --ink: #e6edf3; --soft: #9aa4af; --line: #30363d; --page: #0d1117; --card: #161b22;
 --note: #2f2611; --edge: #9e7a1d;
 --c0: #4aa3df; --c1: #f0b429; --c2: #2fbf93; --c3: #dd97bd; --c4: #7cc7f2; --c5: #ee7a35;
 --c6: #a98bd0; --c7: #35b3b8; --c8: #b8994a; --c9: #dd6c9b; --rest: #6e7681; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 62rem; background: var(--page);
 color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
 overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; padding-top: .75rem;
 border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
figure h3 { margin-top: .5rem; }
h3.run { font-size: 1.1rem; margin-top: 1.75rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { font-size: 1.1rem; margin: .75rem 0; }
.soft, figcaption, summary, dt { color: var(--soft); }
.soft, figcaption { font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem;
 margin: 1rem 0; }
.tile { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tile span + span { opacity: .75; }
.tile span { color: var(--soft); font-size: .85rem; line-height: 1.3; display: block; }
.note { background: var(--note); border-left: .25rem solid var(--edge); border-radius: .25rem;
 padding: .5rem .8rem; margin: .5rem 0; font-size: .925rem; }
.note summary { color: var(--ink); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
 gap: .5rem 1.5rem; align-items: start; }
figure { margin: .25rem 0 .75rem; min-width: 0; max-width: 34rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--ink); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .s { fill: var(--soft); font-size: 10px; }
svg .b { font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .track { fill: var(--card); }
svg .frame { stroke: var(--page); stroke-width: .5; }
.wide { min-width: 44rem; } .keys span + .key { margin-left: .9em; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; vertical-align: bottom; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
td:first-child { min-width: 7rem; white-space: pre-wrap; }
.side { display: grid; gap: .5rem 2rem; align-items: start;
 grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.side td:first-child { white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
tr.sum td { font-weight: 600; border-top: 2px solid var(--line); }
.key { display: inline-block; width: .75em; height: .75em; border-radius: .15em;
 margin-right: .45em; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .2rem 1rem;
 font-size: .875rem; margin: .5rem 0; }
dd { margin: 0; min-width: 0; }
code { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
 overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; margin: .4rem 0;
 white-space: pre-wrap; }
details { margin: .5rem 0; } summary { cursor: pointer; }
ul { padding-left: 1.2rem; margin: .4rem 0; font-size: .875rem; max-width: 46rem; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; }
 dd { margin-bottom: .4rem; } }
@media print { body { max-width: none; } details { display: block; } .wide { min-width: 0; }
 svg, .key { print-color-adjust: exact; } }
"""


def el(tag: str, *children: Child, **attributes: object) -> Element:
    """Make an element of children, text among them; None is left out.

    Attributes are named as in HTML with `_` for `-`, and one at the end to tell `class_` from
    Python's word; an attribute of None is left out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), clean(_plain(value)))
    for child in children:
        add(made, child)
    return made


def add(parent: Element, child: Child) -> None:
    """Put an element or a text at the end of another element."""
    if child is None:
        return
    if isinstance(child, Element):
        parent.append(child)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(child)
    else:
        parent.text = (parent.text or "") + clean(child)


def clean(text: str) -> str:
    """Replace control characters, which neither HTML nor SVG may hold."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def svg(width: float, height: float, label: str, *children: Child) -> Element:
    """Make a drawing that scales with the page; `label` says to screen readers what it shows."""
    view = f"0 0 {_plain(width)} {_plain(height)}"
    return el("svg", *children, viewBox=view, role="img", aria_label=label)


def to_html(root: Element) -> str:
    """Serialise a whole page."""
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(heads: Sequence[str], rows: Iterable[Sequence[Child]], text: Sequence[bool]) -> Element:
    """Make a table that may scroll; columns that are not `text` are numbers, aligned right."""

    def cells(kind: str, row: Sequence[Child]) -> list[Element]:
        classes = (None if is_text else "n" for is_text in text)
        return [el(kind, cell, class_=name) for cell, name in zip(row, classes, strict=True)]

    body = el("tbody", *(el("tr", *cells("td", row)) for row in rows))
    return el("div", el("table", el("thead", el("tr", *cells("th", heads))), body), class_="scroll")


def show_table(laid_out: Table) -> Element:
    """Render a table with its title above and its note below."""
    columns = laid_out.columns
    heads, text = [column.head for column in columns], [column.is_text for column in columns]
    return el(
        "div",
        el("h3", laid_out.title) if laid_out.title else None,
        table(heads, laid_out.texts(), text),
        el("p", laid_out.note, class_="soft") if laid_out.note else None,
    )


def folded(title: str, *children: Child) -> Element:
    """Fold elements away under a title."""
    return el("details", el("summary", title), *children)


def bullets(lines: Iterable[str]) -> Element:
    """List lines."""
    return el("ul", *(el("li", line) for line in lines))


def colour(place: int) -> str:
    """Return the colour of a series; they repeat after `SERIES`."""
    return f"var(--c{place % SERIES})"


@dataclass(frozen=True)
class Quantity:
    """How a plot writes its figures, and the round values of a scale that ends at `high`."""

    write: Callable[[float], str]
    tick: Callable[[float, float], str]


def _seconds_tick(value: float, high: float) -> str:
    return f"{_round(value)} s" if high >= 1 else f"{_round(value * 1e3)} ms"


def _round(value: float) -> str:
    """Write a round number without zeros behind the point."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")


SECONDS = Quantity(seconds, _seconds_tick)
MEBIBYTES = Quantity(lambda v: f"{digits(v)} MiB", lambda v, _: f"{_round(v)} MiB")
PERCENT = Quantity(lambda v: f"{digits(v)} %", lambda v, _: f"{_round(v)} %")
