"""Commands `samclip-bench report` and `compare`: a page, and a comparison, of JSON reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel

from samclip.benchmarks.cli.session import wide_console
from samclip.benchmarks.compare import (
    describe_differences,
    missing,
    other_machine,
    pair_reports,
    pairs_table,
)
from samclip.benchmarks.html.named_reports import NamedReports
from samclip.benchmarks.html.page import render
from samclip.benchmarks.report import check_writable, read_report, write_whole
from samclip.benchmarks.same_models import match_models
from samclip.benchmarks.tables import show_table
from samclip.cli import options as shared
from samclip.cli.exits import report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.terminal import err, out, say

REPORT_EXAMPLES = """
**Examples:**

- `samclip-bench report latency.json memory.json --output report.html`

- `samclip-bench report latency.json instances.json roofline.json -o report.html`
"""

Reports = Annotated[
    list[Path],
    typer.Argument(
        parser=parse_path,
        metavar="REPORT...",
        show_default=False,
        help="Files that --json of any benchmark has written, by this version or an earlier one.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", parser=parse_path, metavar="FILE", help="The HTML file to write."
    ),
]


def report(
    reports: Reports, output: Output = Path("report.html"), debug: shared.Debug = False
) -> None:
    """Show reports as one HTML file: plots, tables, and how everything was measured.

    The file holds all that it needs and loads nothing. Reports of the same bundle that hold time
    and accuracy are plotted against each other.
    """
    with report_errors(debug):
        target = check_writable(output, b"<!doctype html", reports)
        write_whole(target, render(NamedReports.read(reports)).encode("utf-8"))
        say(err, f"written: {target}")


COMPARE_EXAMPLES = """
**Examples:**

- `samclip-bench compare before.json after.json`

- `samclip-bench compare before.json after.json --only-sure --stages`

- `samclip-bench compare fp32.json int8.json --match "samclip-tiny=samclip-tiny-int8"`
"""

Before = Annotated[
    Path, typer.Argument(parser=parse_path, metavar="BEFORE.json", show_default=False)
]
After = Annotated[Path, typer.Argument(parser=parse_path, metavar="AFTER.json", show_default=False)]
OnlySure = Annotated[
    bool, typer.Option("--only-sure", help="Leave out rows whose interval holds 1.")
]
Match = Annotated[
    list[str] | None,
    typer.Option(
        "--match",
        metavar="BEFORE=AFTER",
        show_default=False,
        help="Compare these two models, by their names in the reports, though they differ. May be "
        "given several times.",
    ),
]
Stages = Annotated[bool, typer.Option("--stages", help="Show stages too, not tasks alone.")]


def compare(
    before: Before,
    after: After,
    match: Match = None,
    only_sure: OnlySure = False,
    stages: Stages = False,
    debug: shared.Debug = False,
) -> None:
    """Compare each row of AFTER with that of BEFORE, with the 95 % interval of the ratio.

    Both are files that --json wrote, of the same benchmark. Models are the same where the hash of
    their bundle, the backend and the precision are; what has no partner is listed, with the reason.
    Times are compared as speeds: 2.00x as fast takes half the time. What else differs between the
    runs is listed; another machine is said loudly. Models measured in ONE run are compared better:
    their report has ratios that a busy machine does not spoil. The exit code is 0 whatever was
    found, and 2 where nothing can be compared.
    """
    with report_errors(debug):
        first, second = read_report(before), read_report(after)
        models = match_models(first.subjects, second.subjects, match or ())
        pairs = pair_reports(first, second, models)
        if warning := other_machine(first, second):
            err.print(Panel(warning, title="WARNING: DIFFERENT MACHINES", style="bold red"))
        if only_sure:
            pairs = tuple(pair for pair in pairs if pair.is_sure)
        if not stages:
            pairs = tuple(pair for pair in pairs if not pair.is_stage)
        wide_console().print(show_table(pairs_table(pairs)))
        for line in models.unmatched:
            say(out, f"- not compared: {line}", style="yellow")
        for line in describe_differences(first, second, models):
            say(out, f"- differs: {line}", style="dim")
        alone = missing(first, second, models)
        if alone:
            say(out, f"- {len(alone)} rows are in one report only, as {alone[0]}", style="dim")
