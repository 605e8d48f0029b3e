"""The command `samclip-merge`: photos and teachers in, a merged checkpoint out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from samclip.cli.exits import CommandApp, report_errors
from samclip.cli.options import Debug
from samclip.cli.stop_signals import stop_code
from samclip.cli.terminal import err, say
from samclip.disk.paths import user_path
from samclip.errors import TrainingError
from samclip.merge.training.launcher import is_launched, launch

PACKAGES = ("torch", "safetensors", "filelock", "accelerate")
SELF = (sys.executable, "-c", "from samclip.commands import merge; merge()")

EXAMPLES = """
[bold]Examples[/]

The smallest run, on a folder of photos, in a minute:

    samclip-merge --config configs/smallest.toml --photos PHOTOS

A run as its file describes it, its results in runs/tiny:

    samclip-merge --config configs/samclip_tiny.toml --output runs/tiny

The same command goes on where it was stopped. From the start again:

    samclip-merge --config configs/samclip_tiny.toml --output runs/tiny --restart

What a checkpoint is worth on the photos held back:

    samclip-merge --config configs/samclip_tiny.toml --evaluate-only runs/tiny/merged.safetensors

On the four GPUs of this machine, or as four processes of its CPU:

    samclip-merge --config configs/samclip_tiny.toml --processes 4

On several machines:

    accelerate launch -m samclip.merge.cli --config configs/sam_clip_vit_b.toml
"""

app = CommandApp(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EXAMPLES)
def merge(
    config: Annotated[
        Path, typer.Option(help="The TOML file that describes student, teachers, photos, stages.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder of the run: state, log, curves, evaluations, checkpoint.",
            show_default="runs/NAME, the name in the file",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="The folder of photos, for every stream, instead of those of \\[data] there.",
            show_default="those of the file",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Insist on going on: also where the file has changed since; fail without a state.",
        ),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start again, forgetting the folder's state and log.")
    ] = False,
    precompute: Annotated[
        bool,
        typer.Option(
            "--precompute", help="Only ask the teachers, and keep what they say of fixed views."
        ),
    ] = False,
    steps_scale: Annotated[
        float, typer.Option(min=0.0001, help="Stretch or shorten every stage by this factor.")
    ] = 1.0,
    evaluate_only: Annotated[
        Path | None,
        typer.Option(help="Judge this merged checkpoint on the photos held back; train nothing."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Train in so many processes on this machine, which divide the batches."
        ),
    ] = 1,
    debug: Debug = False,
) -> None:
    """Merge SAM and CLIP into one model, by distillation as SAM-CLIP describes it.

    A run is stages, one after the other: each trains some parts of the student on some losses.
    Ctrl-C stops it between two steps and keeps its state; the same command continues.
    """
    with report_errors(debug):
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise TrainingError(
                f"samclip-merge needs {', '.join(missing)}, not installed here. "
                "Install them: pip install 'samclip[merge]'"
            )
        # torch takes seconds to import: --help and usage errors must not wait for it.
        from samclip.merge.config.run import read_config  # noqa: PLC0415
        from samclip.merge.factories import require_devices  # noqa: PLC0415
        from samclip.merge.merge_session import MergeSession, SessionOptions  # noqa: PLC0415
        from samclip.merge.training.trainer import StoppedError  # noqa: PLC0415

        if resume and restart:
            raise TrainingError("--resume and --restart contradict each other; give one")
        folder_of_photos = None if photos is None else user_path(photos, "--photos")
        run = read_config(config, steps_scale, folder_of_photos)
        if processes > 1 and evaluate_only is None and not is_launched():
            require_devices(processes)
            raise typer.Exit(launch([*SELF, *sys.argv[1:]], processes))
        folder = user_path(output or Path("runs") / run.name, "--output")
        options = SessionOptions(folder, config, folder_of_photos, resume, restart)
        session = MergeSession(run, options, err)
        try:
            if evaluate_only is not None:
                session.evaluate(evaluate_only)
            elif precompute:
                session.precompute()
            else:
                session.train()
        except StoppedError as stopped:
            say(err, f"{stopped}; the same command continues the run in {folder}")
            raise typer.Exit(stop_code(stopped.number)) from stopped


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
