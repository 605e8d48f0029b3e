"""What is said of a variant that the library here is too old for."""

from __future__ import annotations

from samclip.runtime.bundles.manifest import Graph


def passed_over_notices(
    name: str, graph: Graph, backend: str, precision: str | None, version: str | None
) -> tuple[str, ...]:
    """Say which variants of the graph `name` a newer library would take in place of the chosen one.

    Arguments are as in `Graph.variant_for`; empty where the preferred variant is taken.
    """
    chosen = graph.variant_for(backend, precision, version)
    if chosen is None:
        return ()
    here = f"here is {version}" if version else "its version here is unknown"
    return tuple(
        f"{name}: {variant.file} is passed over for {chosen.file}: it needs {backend} "
        f"{need.version} or newer, {here}"
        for variant, need in graph.passed_over(backend, precision, version)
    )
