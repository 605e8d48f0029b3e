"""The app of the `samclip-bench` command."""

from __future__ import annotations

from typing import Annotated

import typer

from samclip.benchmarks.cli import (
    agreement,
    amortised,
    baselines,
    compare,
    images,
    instances,
    latency,
    memory,
    names,
    peers,
    report,
    roofline,
    semantic,
)
from samclip.cli.exits import StoppableTyper, StreamsGroup
from samclip.cli.main import print_version
from samclip.cli.terminal import accept_any_text

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy instances path/to/coco --bundle my-bundle`

- `samclip-bench accuracy semantic path/to/camvid --bundle my-bundle --json semantic.json`
"""
HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = StoppableTyper(
    name="samclip-bench",
    cls=StreamsGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # a defect shows Python's own traceback, fit for a report
    epilog=EXAMPLES,
    context_settings=HELP_NAMES,
)
accuracy = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings=HELP_NAMES,
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


accuracy.command(epilog=instances.INSTANCES_EXAMPLES)(instances.instances)
accuracy.command(epilog=names.NAMES_EXAMPLES)(names.names)
accuracy.command(epilog=images.IMAGES_EXAMPLES)(images.images)
accuracy.command(epilog=semantic.EXAMPLES)(semantic.semantic)
accuracy.command(epilog=baselines.EXAMPLES)(baselines.baselines)
app.add_typer(accuracy, name="accuracy")
app.command(epilog=agreement.EXAMPLES)(agreement.agreement)
app.command(epilog=latency.LATENCY_EXAMPLES)(latency.latency)
app.command(epilog=memory.MEMORY_EXAMPLES)(memory.memory)
app.command(epilog=amortised.AMORTISED_EXAMPLES)(amortised.amortised)
app.command(epilog=compare.COMPARE_EXAMPLES)(compare.compare)
app.command(epilog=peers.EXAMPLES)(peers.peers)
app.command(epilog=roofline.ROOFLINE_EXAMPLES)(roofline.roofline)
app.command(epilog=report.REPORT_EXAMPLES)(report.report)

if __name__ == "__main__":
    app()
