"""The command that builds a plan again, for messages."""

from __future__ import annotations

import shlex

from samclip.engines.plans.axes import DEFAULT_AXES
from samclip.engines.plans.sidecar import BuiltGraph, LibraryName, Sidecar

ANY_BUNDLE = "BUNDLE"
TENSORRT: LibraryName = "tensorrt"


def build_command(graph: BuiltGraph, library: str, capability: str | None = None) -> str:
    """Give the command that builds a plan of `graph`, with every option at its default."""
    words = ["samclip", "engine", "build", graph.origin or ANY_BUNDLE, "--backend", library]
    words += ["--graph", graph.name, "--precision", graph.precision]
    if library != TENSORRT and capability:
        words += ["--target", target_name(capability)]
    return shlex.join(words)


def rebuild_command(sidecar: Sidecar, origin: str = "", capability: str | None = None) -> str:
    """Give the command that builds a plan again as it was built, for the bundle at `origin`.

    With `capability` also for a GPU of that compute capability.
    """
    graph, options = sidecar.graph, sidecar.options
    words = ["samclip", "engine", "build", origin or graph.origin or ANY_BUNDLE]
    words += ["--backend", sidecar.library, "--graph", graph.name, "--precision", graph.precision]
    if sidecar.library != TENSORRT:
        wanted = dict.fromkeys(
            [*sidecar.target.capabilities, *([capability] if capability else [])]
        )
        words += [word for name in wanted for word in ("--target", target_name(name))]
    for name, axis in sidecar.axes.items():
        if axis != DEFAULT_AXES.get(name):
            words += [f"--{name}", str(axis)]
    if options.workspace is not None:
        words += ["--workspace", str(options.workspace // 2**20)]
    if options.level is not None:
        words += ["--level", str(options.level)]
    flags = {"--strip-weights": options.strip_weights}
    flags["--version-compatible"] = options.version_compatible
    return shlex.join([*words, *(flag for flag, is_set in flags.items() if is_set)])


def target_name(capability: str) -> str:
    """Write a compute capability, "8.6", as a target: "sm86"."""
    return f"sm{capability.replace('.', '')}"
