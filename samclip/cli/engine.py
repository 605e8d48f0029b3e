"""`samclip engine`: TensorRT plans, built once on a machine, listed and removed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from samclip.cli import engine_bisect, engine_build, engine_check, options
from samclip.cli.exits import report_errors
from samclip.cli.plan_names import choose_plans, find_plans, short_name
from samclip.cli.tables import format_bytes, make_table
from samclip.cli.terminal import err, out, say, write_json

if TYPE_CHECKING:
    from samclip.engines.plans.store import StoredPlan

LIST_EXAMPLES = """
**Examples:**

- `samclip engine list`

- `samclip engine list my-bundle/ --json`
"""
REMOVE_EXAMPLES = """
**Examples:**

- `samclip engine remove --outdated`

- `samclip engine remove encoder.fp16`

- `samclip engine remove --all`
"""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="TensorRT plans: build them once on a machine, list and remove them.",
)
BesideBundle = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        show_default=False,
        help="A bundle: also look at the plans that were built next to it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_engines(
    bundle: BesideBundle = None, as_json: AsJson = False, debug: options.Debug = False
) -> None:
    """List the plans on this machine: what they compute, for what, their size and state.

    The state is "current", or says why a plan is refused: its bundle changed, another version of
    the library is installed, its files are damaged.
    """
    with report_errors(debug):
        plans = find_plans(bundle)
        if as_json:
            write_json({"plans": [record(plan, state) for plan, state in plans]}, indent=2)
        elif plans:
            out.print(show_plans(plans))
            total = sum(plan.size for plan, _ in plans)
            folders = ", ".join(dict.fromkeys(str(plan.path.parent) for plan, _ in plans))
            say(out, f"{len(plans)} plans, {format_bytes(total)}, in {folders}")
        else:
            say(err, "no plans yet. Build them: samclip engine build BUNDLE")


def remove_engines(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            help="Plans whose names, as `list` shows them, begin so; a part between dots may be "
            "left out.",
        ),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option("--bundle", "-b", metavar="BUNDLE", help="Also those next to this bundle."),
    ] = None,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="All whose state is not current.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All.")] = False,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Remove plans: those named, those that cannot be used any more, or all."""
    with report_errors(debug):
        from samclip.engines.plans.store import remove_plan

        found = find_plans(beside)
        chosen = choose_plans(found, tuple(names or ()), outdated, everything)
        for plan, _ in chosen:
            remove_plan(plan.path)
        if as_json:
            write_json({"removed": [record(plan, state) for plan, state in chosen]}, indent=2)
        total = sum(plan.size for plan, _ in chosen)
        say(err, f"removed {len(chosen)} plans, {format_bytes(total)}")


def record(plan: StoredPlan, state: str) -> dict[str, Any]:
    """Return a plan as plain values: path, size in bytes, state, and its sidecar."""
    import msgspec

    sidecar = None if plan.sidecar is None else msgspec.to_builtins(plan.sidecar)
    return {"path": str(plan.path), "bytes": plan.size, "state": state, "sidecar": sidecar}


def show_plans(plans: list[tuple[StoredPlan, str]]) -> Table:
    """List plans for people."""
    columns = ("name", "bundle", "library", "for", "size", "built", "gate", "state")
    table = make_table(*columns, left=[name for name in columns if name != "size"])
    for plan, state in plans:
        built = plan.sidecar
        if built is None:
            cells = ("?", "?", "?", format_bytes(plan.size), "?", "?")
        else:
            bundle = Path(built.graph.origin).name if built.graph.origin else "-"
            library = f"{built.library} {built.library_version}"
            targets = ", ".join(built.target.capabilities)
            gate = engine_build.describe_gate(built)
            cells = (bundle, library, targets, format_bytes(plan.size), built.built[:10], gate)
        table.add_row(escape(short_name(plan)), *map(escape, cells), escape(state))
    return table


app.command("build", epilog=engine_build.EXAMPLES)(engine_build.build_engines)
app.command("bisect", epilog=engine_bisect.EXAMPLES)(engine_bisect.bisect_engine)
app.command("check", epilog=engine_check.EXAMPLES)(engine_check.check_engines)
app.command("list", epilog=LIST_EXAMPLES)(list_engines)
app.command("remove", epilog=REMOVE_EXAMPLES)(remove_engines)
