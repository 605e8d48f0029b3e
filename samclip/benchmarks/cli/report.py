"""`samclip-bench report`: JSON reports as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.files import check_writable, write_whole
from samclip.benchmarks.html.page import render
from samclip.benchmarks.html.sources import Sources
from samclip.cli import options as shared
from samclip.cli.exits import reported
from samclip.cli.terminal import err, say

REPORT_EXAMPLES = """
**Examples:**

- `samclip-bench report latency.json memory.json --output report.html`

- `samclip-bench report latency.json instances.json roofline.json -o report.html`
"""

Reports = Annotated[
    list[Path],
    typer.Argument(
        metavar="REPORT...",
        show_default=False,
        help="Files that --json of any benchmark has written, by this version or an earlier one.",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file to write.")
]


def report(
    reports: Reports, output: Output = Path("report.html"), debug: shared.Debug = False
) -> None:
    """Show reports as one HTML file: plots, tables, and how everything was measured.

    The file holds all that it needs and loads nothing. Reports of the same bundle that hold time
    and accuracy are plotted against each other.
    """
    with reported(debug):
        target = check_writable(output)
        write_whole(target, render(Sources.read(reports)).encode("utf-8"))
        say(err, f"written: {target}")
