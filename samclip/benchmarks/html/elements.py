"""HTML and SVG elements, built as a tree: the serialiser escapes every text and attribute."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # a browser may not be given them


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


def table(head: list[str], rows: list[list[Child]], left: int = 1) -> Element:
    """Make a table whose first `left` columns are text and the others numbers; it may scroll."""

    def cells(kind: str, row: list[Child] | list[str]) -> list[Element]:
        return [el(kind, c, class_=None if i < left else "n") for i, c in enumerate(row)]

    body = el("tbody", *(el("tr", *cells("td", row)) for row in rows))
    return el("div", el("table", el("thead", el("tr", *cells("th", head))), body), class_="scroll")


def to_html(root: Element) -> str:
    """Serialise a whole page."""
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
