"""`samclip engine check`: plans that exist already, compared with FP32 on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.cli import options
from samclip.cli.engine_build import describe_gate
from samclip.cli.exits import report_errors
from samclip.cli.plan_names import choose_plans, find_plans
from samclip.cli.tables import make_table
from samclip.cli.terminal import err, out, say, write_json

if TYPE_CHECKING:
    from samclip.engines.plans.store import StoredPlan

EXAMPLES = """
**Examples:**

- `samclip engine check`

- `samclip engine check encoder.fp16 --table`
"""


def check_engines(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PLAN",
            show_default="all",
            help="Plans whose names, as `list` shows them, begin so.",
        ),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option("--bundle", "-b", metavar="BUNDLE", help="Also those next to this bundle."),
    ] = None,
    device: Annotated[
        int,
        typer.Option(
            "--device",
            parser=options.parse_gpu,
            metavar="N|cuda:N",
            help="Which GPU runs them.",
        ),
    ] = 0,
    table: Annotated[bool, typer.Option("--table", help="Show every measure.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Compare existing plans with FP32, and write the verdicts into their sidecars.

    A plan that fails is never loaded again. The exit code is 1 when one has failed.
    """
    with report_errors(debug):
        from samclip.cli.progress import ConsoleProgress
        from samclip.errors import PlanGateError
        from samclip.runtime.plans.check import check_plan

        found = find_plans(beside)
        chosen = choose_plans(found, tuple(names or ()), outdated=False, everything=not names)
        judged = []
        for plan, _ in chosen:
            judged.append(check_plan(plan, device, ConsoleProgress(err)))
            say(err, describe(judged[-1]))
            if table:
                out.print(show_rows(judged[-1]))
        if as_json:
            write_json({"plans": [record(plan) for plan in judged]}, indent=2)
        failed = [plan.path.stem for plan in judged if _state(plan) == "failed"]
        if failed:
            raise PlanGateError(
                f"{len(failed)} of {len(judged)} plans do not compute what FP32 computes: "
                f"{', '.join(failed)}. They are not loaded any more. Build them again."
            )


def describe(plan: StoredPlan) -> str:
    """Return one line about a plan that was judged."""
    sidecar = plan.sidecar
    gate = "?" if sidecar is None else f"{describe_gate(sidecar)} ({sidecar.gate.seconds:.1f} s)"
    return f"{plan.path.stem}: {gate}"


def show_rows(plan: StoredPlan) -> Any:
    """List the measures of a plan for people."""
    columns = ("output", "run", "measure", "value", "limit", "worst case")
    table = make_table(*columns, left=["output", "run", "measure", "worst case"])
    for row in plan.sidecar.gate.rows if plan.sidecar is not None else ():
        limit = "-" if row.limit is None else f"{row.limit:g}"
        table.add_row(row.output, row.run, row.measure, f"{row.value:.5f}", limit, row.case)
    return table


def record(plan: StoredPlan) -> dict[str, Any]:
    """Return a plan that was judged as plain values: its path and the verdict."""
    import msgspec

    gate = None if plan.sidecar is None else msgspec.to_builtins(plan.sidecar.gate)
    return {"path": str(plan.path), "gate": gate}


def _state(plan: StoredPlan) -> str | None:
    return None if plan.sidecar is None else plan.sidecar.gate.state
