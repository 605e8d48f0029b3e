"""The app of the `samclip` command."""

from __future__ import annotations

from typing import Annotated

import typer

from samclip.cli import (
    batch,
    bundle,
    demo,
    deploy,
    deploy_triton,
    doctor,
    engine,
    serve,
    tasks,
    teach,
    watch,
)
from samclip.cli.exits import CommandApp
from samclip.cli.terminal import accept_any_text, out, say
from samclip.cli.word_hints import WORDS, hinting_group
from samclip.version import __version__

EXAMPLES = """
**Examples:**

- `samclip demo`

- `samclip segment street.jpg --point 420,310`

- `samclip classify photos/ --names "a street,a kitchen" --json`

- `samclip doctor`
"""

app = CommandApp(
    name="samclip",
    cls=hinting_group(WORDS),
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EXAMPLES,
)


def print_version(wanted: bool) -> None:
    """Print the version and exit, when `wanted`."""
    if wanted:
        say(out, f"samclip {__version__}")
        raise typer.Exit


@app.callback()
def samclip(
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """One encoder pass per image, then classify, segment, label every pixel, find everything.

    Answers go to stdout, everything else to stderr. Exit code 0: all went well; 1: something
    failed; 2: the input or the command line is wrong.
    """
    accept_any_text()


app.command(epilog=tasks.CLASSIFY_EXAMPLES)(tasks.classify)
app.command(epilog=tasks.SEGMENT_EXAMPLES)(tasks.segment)
app.command(epilog=tasks.SEMANTIC_EXAMPLES)(tasks.semantic)
app.command(epilog=tasks.EVERYTHING_EXAMPLES)(tasks.everything)
app.command(epilog=batch.EXAMPLES)(batch.batch)
app.command(epilog=watch.EXAMPLES)(watch.watch)
app.command(epilog=teach.EXAMPLES)(teach.teach)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=bundle.INFO_EXAMPLES)(bundle.info)
app.command(epilog=bundle.SIGN_EXAMPLES)(bundle.sign)
app.command(epilog=deploy.EXAMPLES)(deploy.deploy)
app.command("deploy triton", epilog=deploy_triton.EXAMPLES)(deploy_triton.deploy_triton)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.add_typer(engine.app, name="engine")

if __name__ == "__main__":
    app()
