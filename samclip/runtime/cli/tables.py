"""Answers as text for people; `--json` has everything, these have what fits a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from samclip.runtime.results.answers import Classification, SemanticMap
    from samclip.runtime.results.masks import Masks

MOST_ROWS = 20


def make_table(*columns: str, left: Sequence[str] = ("name",)) -> Table:
    """Make an empty table; columns named in `left` hold text, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    for column in columns:
        if column in left:
            table.add_column(column, overflow="fold")  # a cut name would be no name
        else:
            table.add_column(column, justify="right", no_wrap=True)
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
    rows = [_mask_cells(answer, row) for row in range(min(len(answer), MOST_ROWS))]
    table = make_table(*(rows[0] if rows else ("#",)))
    for cells in rows:
        table.add_row(*cells.values())
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


def _mask_cells(answer: Masks, row: int) -> dict[str, str]:
    """Describe one mask: column -> text."""
    cells = {"#": str(row)}
    if answer.prompts:  # several masks may answer one prompt
        cells["object"] = str(int(answer.prompt_index[row]))
    if answer.names is not None and answer.name_probabilities is not None:
        cells["name"] = escape(answer.names[row])
        cells["probability"] = f"{answer.name_probabilities[row]:.1%}"
    height, width = answer.packed.size
    cells["score"] = f"{answer.scores[row]:.3f}"
    cells["area"] = f"{int(answer.areas[row]) / (height * width):.1%}"
    cells["box x1,y1,x2,y2"] = ",".join(f"{edge:.0f}" for edge in answer.boxes[row])
    return cells
