"""Tables of figures, laid out once: the terminal and the HTML page render the same table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table as RichTable

from samclip.benchmarks.formats import NONE
from samclip.cli.tables import cell, make_table

Cell = str | float | None


@dataclass(frozen=True)
class Column:
    """A column under its head. `write` makes text of a number.

    Columns of text are aligned left and may be folded, columns of numbers are aligned right.
    """

    head: str
    write: Callable[[Any], str] = str
    is_text: bool = False


def text_columns(*heads: str) -> tuple[Column, ...]:
    """Make columns of text."""
    return tuple(Column(head, is_text=True) for head in heads)


@dataclass(frozen=True)
class Table:
    """Rows under columns, with a title and a note below it; None in a cell is not known."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""

    def texts(self) -> Iterator[list[str]]:
        """Return the cells of each row as text."""
        for row in self.rows:
            yield [_text(*pair) for pair in zip(self.columns, row, strict=True)]


def _text(column: Column, cell: Cell) -> str:
    if cell is None:
        return NONE
    return cell if isinstance(cell, str) else column.write(cell)


def show_table(table: Table) -> RichTable:
    """Render a table for the terminal."""
    texts = [column.head for column in table.columns if column.is_text]
    shown = make_table(*(column.head for column in table.columns), left=texts)
    for row in table.texts():
        shown.add_row(*map(cell, row))
    if table.title:
        shown.title, shown.title_justify = escape(table.title), "left"
    if table.note:
        shown.caption, shown.caption_justify = escape(table.note), "left"
    return shown
