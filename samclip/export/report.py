"""The report of a finished export: tables and the next command for people, JSON for machines."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from samclip.cli.tables import exceptions_table, gates_table, make_table, rounding_table
from samclip.export.exporter import Export
from samclip.export.naming_head import head_name, untrained_note
from samclip.json_text import to_json as write
from samclip.runtime.bundles.manifest import Manifest, ParityRow


def to_json(export: Export) -> str:
    """Return one JSON object: the bundle's path and its manifest."""
    document = {"path": str(export.path), "manifest": msgspec.to_builtins(export.manifest)}
    return write(document)


def print_export(export: Export, console: Console) -> None:
    """Print the parity table, the gates, the bundle's size and the next command."""
    manifest = export.manifest
    if manifest.parity:
        console.print(_parity_table(export))
    if manifest.rounding:
        table = rounding_table(manifest)
        table.title = "Rounded weights against their originals"
        console.print(table)
    for title, table in (
        ("Gates: reduced precision against FP32, on held-back photos", gates_table(manifest)),
        ("Left out of reduced precision", exceptions_table(manifest)),
    ):
        if table.row_count:
            table.title = title
            console.print(table)
    if manifest.head is not None and (note := untrained_note(manifest.head)):
        title = f"Untrained {head_name(manifest.head)}"
        console.print(Panel(note, title=title, border_style="red"))
    megabytes = sum(file.size for file in manifest.files.values()) / 1e6
    console.print(f"{export.path}  {megabytes:.1f} MB", style="bold", markup=False, soft_wrap=True)
    console.print(
        f"Try it: {_first_command(manifest)} --bundle {export.path}", soft_wrap=True, markup=False
    )


def _first_command(manifest: Manifest) -> str:
    """Return a command to try that the bundle can run; a region head names prompted masks only."""
    if manifest.region_head is None:
        return "samclip everything PHOTO"
    return 'samclip segment PHOTO --point X,Y --names "NAME,NAME"'


def _parity_table(export: Export) -> Table:
    """Return a table of each output's worst relative error over all photos."""
    columns = ("graph", "variant", "output", "error", "allowed", "photo")
    table = make_table(*columns, left=("graph", "variant", "output", "photo"))
    table.title = "Worst errors against the torch model: max |a - b| / max |b|"
    worst: dict[tuple[str, str, str], ParityRow] = {}
    for row in export.manifest.parity:
        key = (row.graph, row.variant, row.output)
        if key not in worst or row.max_rel_error > worst[key].max_rel_error:
            worst[key] = row
    for (graph, variant, output), row in worst.items():
        cells = (f"{row.max_rel_error:.1e}", f"{row.tolerance:.0e}", row.image)
        table.add_row(graph, variant, output, *map(escape, cells))
    return table
