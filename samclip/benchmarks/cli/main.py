"""The app of the `samclip-bench` command."""

from __future__ import annotations

from typing import Annotated

import typer

from samclip.benchmarks.cli import (
    accuracy,
    agreement,
    baselines,
    board,
    choose,
    costs,
    examples,
    profile,
    reports,
    semantic,
    shapes,
    speed,
    video,
)
from samclip.cli.exits import CommandApp
from samclip.cli.main import print_version
from samclip.cli.terminal import accept_any_text
from samclip.cli.word_hints import BENCH_WORDS, hinting_group

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy instances path/to/coco --bundle my-bundle`

- `samclip-bench accuracy semantic path/to/camvid --bundle my-bundle --json semantic.json`
"""

app = CommandApp(
    name="samclip-bench",
    cls=hinting_group(BENCH_WORDS),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EXAMPLES,
)
accuracy_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="How right a bundle is, on local folders of photos with truth.",
)


@app.callback()
def samclip_bench(
    version: Annotated[  # noqa: ARG001 - its callback has done the work
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Measure bundles on this machine; every figure comes with its 95 % interval.

    Tables go to stdout, everything else to stderr; --json FILE writes the whole report. Exit code
    0: all went well; 1: something failed; 2: the input or the command line is wrong.
    """
    accept_any_text()


accuracy_app.command(epilog=accuracy.INSTANCES_EXAMPLES)(accuracy.instances)
accuracy_app.command(epilog=accuracy.EVERYTHING_EXAMPLES)(accuracy.everything)
accuracy_app.command(epilog=accuracy.NAMES_EXAMPLES)(accuracy.names)
accuracy_app.command(epilog=accuracy.IMAGES_EXAMPLES)(accuracy.images)
accuracy_app.command(epilog=examples.EXAMPLES)(examples.examples)
accuracy_app.command(epilog=semantic.EXAMPLES)(semantic.semantic)
accuracy_app.command(epilog=baselines.EXAMPLES)(baselines.baselines)
app.add_typer(accuracy_app, name="accuracy")
app.command(epilog=agreement.EXAMPLES)(agreement.agreement)
app.command(epilog=video.EXAMPLES)(video.video)
app.command(epilog=speed.LATENCY_EXAMPLES)(speed.latency)
app.command(epilog=speed.MEMORY_EXAMPLES)(speed.memory)
app.command(epilog=shapes.EXAMPLES)(shapes.shapes)
app.command(epilog=board.EXAMPLES)(board.board)
app.command(epilog=choose.EXAMPLES)(choose.choose)
app.command(epilog=costs.AMORTISED_EXAMPLES)(costs.amortised)
app.command(epilog=reports.COMPARE_EXAMPLES)(reports.compare)
app.command(epilog=costs.ROOFLINE_EXAMPLES)(costs.roofline)
app.command(epilog=profile.EXAMPLES)(profile.profile)
app.command(epilog=reports.REPORT_EXAMPLES)(reports.report)

if __name__ == "__main__":
    app()
