"""Answers as text for people; `--json` has everything, these have what fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from samclip.runtime.masks import Masks
    from samclip.runtime.results import Classification, SemanticMap

MOST_ROWS = 20


def make_table(*columns: str, left: Sequence[str] = ("name",)) -> Table:
    """Make an empty table; columns named in `left` hold text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    for column in columns:
        is_text = column in left
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text)
    return table


def format_bytes(size: int) -> str:
    """Write a size for people, in units of 1000: `41.2 MB`."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.95 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.1f} {units[0]}" if units[0] != "B" else f"{size} B"


def show_classification(answer: Classification, top: int) -> Table:
    """List the best names with their probabilities in percent."""
    table = make_table("probability", "name")
    for name, probability in answer.top(top):
        table.add_row(f"{probability:.1%}", escape(name))
    return table


def show_masks(answer: Masks) -> Table:
    """List masks with their share of the image; the first ones when they are many."""
    named = answer.names is not None and answer.name_probabilities is not None
    columns = ("name", "probability") if named else ()
    table = make_table("#", "object", *columns, "score", "area", "box x1,y1,x2,y2")
    height, width = answer.packed.size
    for row in range(min(len(answer), MOST_ROWS)):
        cells = [str(row), str(int(answer.prompt_index[row]))]
        if answer.names is not None and answer.name_probabilities is not None:
            cells += [escape(answer.names[row]), f"{answer.name_probabilities[row]:.1%}"]
        edges = ",".join(f"{edge:.0f}" for edge in answer.boxes[row])
        share = int(answer.areas[row]) / (height * width)
        table.add_row(*cells, f"{answer.scores[row]:.3f}", f"{share:.1%}", edges)
    if len(answer) > MOST_ROWS:
        table.caption = f"and {len(answer) - MOST_ROWS} more; --json lists all"
    return table


def show_semantic(answer: SemanticMap) -> Table:
    """List the names found with their share of the image, largest first."""
    table = make_table("area", "score", "name")
    for found in answer.to_dict()["classes"]:
        table.add_row(
            f"{found['fraction']:.1%}", f"{found['mean_score']:.2f}", escape(found["name"])
        )
    return table
