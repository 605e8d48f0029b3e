"""How `samclip-export` reads its command line, where that is more than typer can say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from typer.core import TyperCommand

DEFAULT_ENGINE = "tensorrt"


class ExportCommand(TyperCommand):
    """The command; `--engine` may stand alone, which typer's options with a value cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of a command line."""
        return super().parse_args(ctx, with_engine(args))


def with_engine(args: Sequence[str]) -> list[str]:
    """Give a bare `--engine` the value that it stands for."""
    told: list[str] = []
    for arg, following in zip_longest(args, args[1:]):
        told.append(arg)
        if arg == "--engine" and (following is None or following.startswith("-")):
            told.append(DEFAULT_ENGINE)
    return told
