"""Steps that a person can take about an error, as facts: `samclip.cli` makes commands of them.

The message of an error says in words what to do. Its `steps` say the same to a program, which
knows its own commands and options; nothing here and nothing below `cli` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from samclip.engines.backend_names import TENSORRT
from samclip.errors import Step


@dataclass(frozen=True)
class BuildPlans(Step):
    """Build plans of the bundle at `origin`, "" when that is not known.

    `graphs`: which, () for all; `targets`: compute capabilities ("8.6"), () for the GPU of the
    machine; `axes`: ranges of sizes ("1,4,16") by the name of the axis, where they are not the
    default ones; `workspace` in bytes; `force`: although an equal plan is there. None is the
    default of each.
    """

    origin: str = ""
    backend: str = TENSORRT
    graphs: tuple[str, ...] = ()
    precision: str | None = None
    targets: tuple[str, ...] = ()
    axes: tuple[tuple[str, str], ...] = ()
    workspace: int | None = None
    level: int | None = None
    strip_weights: bool = False
    force: bool = False


@dataclass(frozen=True)
class RemovePlan(Step):
    """Remove a plan: `name` is its file's without the suffix, "" when that is not known."""

    name: str = ""


@dataclass(frozen=True)
class ExportBundle(Step):
    """Export a bundle, with these settings by name; a value of None is the person's to choose."""

    settings: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class SignBundle(Step):
    """Sign the bundle at `path`."""

    path: str


@dataclass(frozen=True)
class MeasureChoice(Step):
    """Measure which backend is fastest for the bundle at `origin`."""

    origin: str


@dataclass(frozen=True)
class ChangeSettings(Step):
    """Try again with other values of these settings, named as Python has them."""

    names: tuple[str, ...]
