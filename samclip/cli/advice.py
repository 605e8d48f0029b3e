"""Commands and options for the steps that errors name: `samclip.engines.steps` has the facts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from samclip.engines.backend_names import TENSORRT, target_name
from samclip.engines.steps import (
    BuildPlans,
    ChangeSettings,
    ExportBundle,
    MeasureChoice,
    RemovePlan,
    SignBundle,
)
from samclip.errors import Step

MIB = 2**20
# Options that are not called like the setting that they change.
OPTIONS = {"targets": "--target", "preflight": "--no-preflight"}


def with_commands(text: str, steps: Iterable[Step]) -> str:
    """Return `text`, followed by the options to change and the commands to type, if any."""
    known = tuple(steps)
    parts = []
    if options := options_to_change(known):
        parts.append(f"Options: {', '.join(options)}.")
    if commands := commands_to_type(known):
        parts.append(f"Command: {'; '.join(commands)}")
    if parts and not text.endswith((".", "!", "?")):
        text += "."
    return " ".join((text, *parts))


def remedy_to_type(remedy: str, steps: Iterable[Step]) -> str:
    """Return the commands that take `steps`, or where there are none the `remedy` in words."""
    return "; ".join(commands_to_type(steps)) or remedy


def options_to_change(steps: Iterable[Step]) -> list[str]:
    """Name the options that the steps would change, each once."""
    settings = [n for step in steps if isinstance(step, ChangeSettings) for n in step.names]
    return list(dict.fromkeys(map(_option, settings)))


def commands_to_type(steps: Iterable[Step]) -> list[str]:
    """Write the commands that take the steps, ready for a shell, each once."""
    return list(dict.fromkeys(shlex.join(words) for words in map(_words, steps) if words))


def _words(step: Step) -> list[str]:
    match step:
        case BuildPlans():
            return _build(step)
        case RemovePlan(name):
            return ["samclip", "engine", "remove", name or "NAME"]
        case ExportBundle(settings):
            return [
                "samclip-export",
                *(w for n, v in settings for w in (_option(n), v or n.upper())),
            ]
        case SignBundle(path):
            return ["samclip", "sign", path, "--key", "KEY"]
        case MeasureChoice(origin):
            return ["samclip-bench", "choose", origin]
        case _:
            return []


def _build(step: BuildPlans) -> list[str]:
    words = ["samclip", "engine", "build", step.origin or "BUNDLE"]
    if step.origin or step.backend != TENSORRT:
        words += ["--backend", step.backend]
    words += [word for graph in step.graphs for word in ("--graph", graph)]
    if step.precision is not None:
        words += ["--precision", step.precision]
    words += [word for target in step.targets for word in ("--target", target_name(target))]
    words += [word for name, sizes in step.axes for word in (f"--{name}", sizes)]
    if step.workspace is not None:
        words += ["--workspace", str(step.workspace // MIB)]
    if step.level is not None:
        words += ["--level", str(step.level)]
    flags = ("strip_weights", "force")
    return [*words, *(_option(flag) for flag in flags if getattr(step, flag))]


def _option(setting: str) -> str:
    """Name the option of a setting: "--strip-weights" for "strip_weights"."""
    return OPTIONS.get(setting, f"--{setting.replace('_', '-')}")
