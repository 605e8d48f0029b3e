"""Entry points of the console scripts.

Each imports its command within `exit_on_signal`, so that Ctrl-C and SIGTERM end it with one line.
This module itself imports as little as possible: until then Python would show a traceback.
"""

# ruff: noqa: PLC0415
from __future__ import annotations

from samclip.cli.stop_signals import exit_on_signal


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
