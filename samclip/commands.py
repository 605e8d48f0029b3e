"""Entry points of the console scripts, which heed Ctrl-C and SIGTERM from their first import on.

They import what they run within `ended_at_once`; this module itself imports next to nothing, for
what comes before that Python answers, with its own traceback.
"""

# ruff: noqa: PLC0415
from __future__ import annotations

from samclip.cli.early_stops import ended_at_once


def run() -> None:
    """Run `samclip`."""
    with ended_at_once():
        from samclip.cli.main import app
    app()


def export() -> None:
    """Run `samclip-export`."""
    with ended_at_once():
        from samclip.export.cli import main
    main()


def merge() -> None:
    """Run `samclip-merge`."""
    with ended_at_once():
        from samclip.merge.cli import main
    main()


def bench() -> None:
    """Run `samclip-bench`."""
    with ended_at_once():
        from samclip.benchmarks.cli.main import app
    app()
