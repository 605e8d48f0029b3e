"""`samclip engine bisect`: the first block of a graph that a plan computes wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from samclip.cli import options
from samclip.cli.engine_build import MIB, Backend, Device, Level, Workspace
from samclip.cli.exits import report_errors
from samclip.cli.tables import text_table
from samclip.cli.terminal import err, out, say, write_json
from samclip.engines.backend_names import TENSORRT

if TYPE_CHECKING:
    from samclip.engines.plans.gate.verdict import GateRow
    from samclip.runtime.plans.bisection import Bisection

EXAMPLES = """
**Examples:**

- `samclip engine bisect my-bundle/`

- `samclip engine bisect my-bundle/ --graph text_encoder --precision fp16`
"""


def bisect_engine(
    bundle: options.BundleArgument = None,
    graph: Annotated[str, typer.Option("--graph", metavar="NAME", help="Which graph.")] = "encoder",
    backend: Backend = TENSORRT,
    precision: options.Precision = None,
    device: Device = 0,
    workspace: Workspace = None,
    level: Level = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Find the first block whose output departs from FP32 in a plan of this GPU.

    A plan is built that gives the output of every block; nothing is kept.
    """
    with report_errors(debug):
        from samclip.cli.progress import ConsoleProgress
        from samclip.engines.plans.sidecar import BuildOptions
        from samclip.runtime.bundles.bundle import Bundle
        from samclip.runtime.bundles.home import find_bundle
        from samclip.runtime.plans.bisection import bisect_graph
        from samclip.runtime.plans.building import PlanSettings

        size = None if workspace is None else workspace * MIB
        settings = PlanSettings(
            backend=backend,
            precision=precision,
            device=device,
            options=BuildOptions(workspace=size, level=level),
        )
        opened = Bundle.open(find_bundle(bundle))
        found = bisect_graph(opened, graph, settings, ConsoleProgress(err))
        if as_json:
            import msgspec

            rows, departed = msgspec.to_builtins((found.rows, found.departed))
            write_json({"blocks": rows, "departed": departed}, indent=2)
        else:
            columns = ("output", "cosine", "asked for", "case")
            out.print(text_table(columns, map(_cells, found.rows)))
        say(err, describe(found))


def describe(found: Bisection) -> str:
    """Return the result in a sentence."""
    if found.departed is not None:
        return f"the first output that departs is {found.departed.output!r}"
    if found.verdict.reason:
        return f"the plan could not be compared: {found.verdict.reason}"
    if found.verdict.failures:
        row = found.verdict.failures[0]
        return f"all cosines are right, and {row.measure} of {row.output!r} ({row.run}) is not"
    return (
        "no output departs. If the plan is wrong without these outputs, the fault is in a kernel "
        "that spans several of them"
    )


def _cells(row: GateRow) -> tuple[str, ...]:
    return row.output, f"{row.value:.5f}", f"{row.limit:g}", row.case
