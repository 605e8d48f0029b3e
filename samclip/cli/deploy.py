"""`samclip deploy`: a bundle put into service on this device, rolled back, or looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samclip.cli import options
from samclip.cli.bundle import PublicKey
from samclip.cli.exits import report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.tables import format_bytes, make_table
from samclip.cli.terminal import err, out, say, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from samclip.runtime.deploy.deployment import Outcome
    from samclip.runtime.deploy.status import DeploymentState, ReleaseState

EXAMPLES = """
**Examples:**

- `samclip deploy my-bundle/ --to /opt/models/street`

- `samclip deploy my-bundle/ --to /opt/models/street --precision fp16 --public-key maker.pub`

- `samclip deploy --rollback --to /opt/models/street`

- `samclip deploy --status --to /opt/models/street --json`
"""
_WHAT = "What is done"
_CHECKS = "Checks before the switch"

BundleArgument = Annotated[
    str | None,
    typer.Argument(metavar="BUNDLE", show_default=False, help="A folder, or a bundle's name."),
]
To = Annotated[
    Path,
    typer.Option(
        "--to",
        parser=parse_path,
        metavar="DIR",
        show_default=False,
        rich_help_panel=_WHAT,
        help="The deployment folder. Programs load DIR/current.",
    ),
]
Rollback = Annotated[
    bool,
    typer.Option("--rollback", rich_help_panel=_WHAT, help="Serve the previous release again."),
]
Status = Annotated[
    bool, typer.Option("--status", rich_help_panel=_WHAT, help="Show what is there.")
]
Keep = Annotated[
    int,
    typer.Option(
        "--keep",
        min=2,
        metavar="N",
        rich_help_panel=_WHAT,
        help="Releases that stay, the current and the previous one among them. Those in use by a "
        "running process stay too.",
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="auto|NAME",
        rich_help_panel=_CHECKS,
        show_default="auto; at a rollback, as deployed",
        help="What the release is to run on here. Plans are built where that is TensorRT.",
    ),
]
Build = Annotated[
    bool,
    typer.Option(
        "--build/--no-build",
        rich_help_panel=_CHECKS,
        help="Build TensorRT plans and compare them with FP32, where TensorRT is ready.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        rich_help_panel=_CHECKS,
        help="How long the first run, one image and one prompt, may take.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def deploy(
    to: To,
    bundle: BundleArgument = None,
    rollback: Rollback = False,
    status: Status = False,
    keep: Keep = 2,
    backend: Backend = None,
    precision: options.Precision = None,
    build: Build = True,
    public_key: PublicKey = None,
    timeout: Seconds = 300.0,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Put a bundle into service on this device, so that a failure leaves the old one in service.

    The bundle is copied to DIR/releases, verified, its TensorRT plans are built and compared with
    FP32, and it answers once in another process. Then the link DIR/current leads to it, in one
    step. DIR/previous is the release to roll back to. Running programs keep the release that they
    loaded until they start again. For NVIDIA's Triton server: `samclip deploy triton --help`.
    """
    with report_errors(debug):
        from samclip.cli.progress import ConsoleProgress
        from samclip.errors import InputError
        from samclip.runtime.deploy.deployment import DeploySettings, roll_back
        from samclip.runtime.deploy.deployment import deploy as deploy_bundle
        from samclip.runtime.deploy.status import read_state

        if (bundle is not None) + rollback + status != 1:
            raise InputError("give one of: a BUNDLE to deploy, --rollback, or --status.")
        if status:
            show_state(read_state(to), as_json)
            return
        settings = DeploySettings(
            backend=backend,
            precision=precision,
            build=build,
            keep=keep,
            public_key=public_key,
            seconds=timeout,
        )
        progress = ConsoleProgress(err)
        if bundle is None:
            outcome = roll_back(to, settings, progress)
        else:
            outcome = deploy_bundle(bundle, to, settings, progress)
        if as_json:
            write_json(record(outcome), indent=2)
        else:
            for line in describe(outcome):
                say(out, line)


def describe(outcome: Outcome) -> list[str]:
    """Return lines about a deployment for people."""
    release, run = outcome.release, outcome.first_run
    if not outcome.changed or run is None:
        return [f"{release.bundle} is served already: {release.name} in {outcome.folder}"]
    seconds = f"loaded in {run.load_seconds:.1f} s, answered in {run.answer_seconds:.1f} s"
    lines = [
        f"{outcome.folder / 'current'} is {release.name} now ({release.bundle})",
        f"it runs on {run.backend}: {seconds}; plans: {release.plans}",
        f"to roll back to: {outcome.previous or 'nothing yet'}",
    ]
    if outcome.removed:
        lines.append(f"removed: {', '.join(outcome.removed)}")
    if outcome.in_use:
        lines.append(f"kept, since a running process uses them: {', '.join(outcome.in_use)}")
    return lines


def record(outcome: Outcome) -> dict[str, Any]:
    """Return a deployment as plain values."""
    import msgspec

    return {
        "folder": str(outcome.folder),
        "changed": outcome.changed,
        "current": outcome.release.name,
        "previous": outcome.previous,
        "release": msgspec.to_builtins(outcome.release),
        "plans": [str(plan.stored.path) for plan in outcome.plans],
        "first_run": msgspec.to_builtins(outcome.first_run),
        "removed": list(outcome.removed),
        "in_use": list(outcome.in_use),
    }


def show_state(state: DeploymentState, as_json: bool) -> None:
    """Print the releases of a deployment, as a table or as JSON."""
    if as_json:
        releases = [release_record(release) for release in state.releases]
        write_json(
            {
                "folder": str(state.folder),
                "current": state.current,
                "previous": state.previous,
                "busy": state.busy,
                "releases": releases,
            },
            indent=2,
        )
        return
    out.print(state_table(state))
    if state.busy:
        say(err, "a process is deploying to this folder now")


def release_record(release: ReleaseState) -> dict[str, Any]:
    """Return a release as plain values."""
    import msgspec

    return {
        "name": release.name,
        "role": release.role,
        "bytes": release.size,
        "fault": release.fault or None,
        "in_use": release.in_use,
        "record": msgspec.to_builtins(release.record),
    }


def state_table(state: DeploymentState) -> Table:
    """List releases for people, the newest first."""
    from rich.markup import escape

    columns = ("release", "bundle", "role", "deployed", "runs on", "plans", "size")
    table = make_table(*columns, left=[name for name in columns if name not in {"size", "plans"}])
    table.columns[0].no_wrap = True  # a name to copy
    for release in state.releases[::-1]:
        known = release.record
        cells = ("?", "?", "?", "?")
        if known is not None:
            cells = (known.bundle, known.deployed[:10], known.ran_on, str(known.plans))
        name, deployed, ran_on, plans = cells
        size = "damaged" if release.size is None else format_bytes(release.size)
        role = f"{release.role}, in use" if release.in_use else release.role
        table.add_row(*map(escape, (release.name, name, role, deployed, ran_on, plans, size)))
    return table
