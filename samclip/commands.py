"""Entry points of the console scripts, which heed Ctrl-C and SIGTERM from their first import on.

They import what they run within `exit_on_signal`; this module itself imports next to nothing, for
what comes before that Python answers, with its own traceback.
"""

# ruff: noqa: PLC0415
from __future__ import annotations

from samclip.cli.early_stops import exit_on_signal


def run() -> None:
    """Run `samclip`."""
    with exit_on_signal():
        from samclip.cli.main import app
    app()


def export() -> None:
    """Run `samclip-export`."""
    with exit_on_signal():
        from samclip.export.cli import main
    main()


def merge() -> None:
    """Run `samclip-merge`."""
    with exit_on_signal():
        from samclip.merge.cli import main
    main()


def bench() -> None:
    """Run `samclip-bench`."""
    with exit_on_signal():
        from samclip.benchmarks.cli.main import app
    app()
