"""Comparison of bundles with what people would run instead: `python -m tools.peers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.cli.speed import Seconds
from samclip.benchmarks.latency.contenders import describe_conditions
from samclip.benchmarks.latency.results import make_rows, warn_of_noise
from samclip.benchmarks.latency.rounds import ORDER, Schedule
from samclip.benchmarks.measurements import Measurements
from samclip.benchmarks.memory.usage import make_memory_rows
from samclip.cli import options as shared
from samclip.cli.exits import CommandApp
from samclip.cli.terminal import accept_any_text, err, say
from samclip.engines.machine.host import usable_cores
from samclip.engines.registry import AUTO
from tools.peers.contenders import (
    PeerPlan,
    bundle_contenders,
    choose_peers,
    peer_contender,
)
from tools.peers.environments import default_folder
from tools.peers.results import (
    PROTOCOL,
    environments_table,
    figures_table,
    make_memory,
    make_subject,
    make_timings,
)
from tools.peers.turns import measure_peers

EXAMPLES = """
**Examples:**

- `python -m tools.peers my-bundle --backend onnxruntime --backend openvino --json peers.json`

- `python -m tools.peers my-bundle --only naive-onnxruntime --only naive-openvino`

- `python -m tools.peers --only samexporter-mobile`
"""
_PEERS, _BUNDLE = "Peers", "Bundle and engine"

app = CommandApp(
    add_completion=False,
    rich_markup_mode="markdown",
)

Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="NAME",
        rich_help_panel=_PEERS,
        show_default="all",
        help="torch-eager, torch-compile, transformers, naive-onnxruntime, naive-openvino or "
        "samexporter-mobile; may be repeated.",
    ),
]
ImageSize = Annotated[
    int,
    typer.Option(
        "--image-size",
        min=64,
        metavar="PIXELS",
        rich_help_panel=_PEERS,
        help="Side of the peers' square input, a multiple of 16; bundles have their own.",
    ),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        rich_help_panel=_PEERS,
        show_default="random weights",
        help="A SAM ViT-B checkpoint for the peers that run the reference encoder.",
        exists=True,
        dir_okay=False,
    ),
]
Environments = Annotated[
    Path | None,
    typer.Option(
        "--environments",
        metavar="FOLDER",
        rich_help_panel=_PEERS,
        show_default="peers/ in samclip's cache",
        help="Where environments of peers and their exported files are made and found again; all "
        "of them take some 10 GB.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="fp32|fp16|bf16|int8|int8_fp16",
        rich_help_panel=_BUNDLE,
        help="Of the bundles; peers are FP32.",
    ),
]


@app.command(epilog=EXAMPLES)
@benchmark("peers")
def peers(
    session: Session,
    *,
    bundles: options.Bundles = None,
    backend: options.Backends = None,
    precision: Precision = "fp32",
    threads: shared.Threads = None,
    source: options.PhotoOptions,
    repeats: options.Repeats = 6,
    warm_up: options.WarmUp = 1,
    seconds: Seconds = None,
    only: Only = None,
    image_size: ImageSize = 1024,
    checkpoint: CheckpointFile = None,
    environments: Environments = None,
    report: options.ReportOptions,  # noqa: ARG001 - the harness reads it
) -> Outcome:
    """Time bundles and peers in turn, each in a separate process and environment.

    Environments are made by venv and pip the first time. A peer that cannot be installed, loaded
    or run is a row with its reason, and the others go on. Ratios are to the first bundle. All
    models are in memory at once: with little of it, run a few peers at a time by --only.
    """
    accept_any_text()
    photos, data = source.choose()
    plan = PeerPlan(
        image_size=image_size,
        threads=usable_cores() if threads is None else threads,
        folder=(environments or default_folder()).expanduser().absolute(),
        scratch=session.make_folder(),
        checkpoint=None if checkpoint is None else checkpoint.absolute(),
    )
    contenders = (
        *bundle_contenders(bundles or (None,), backend or (AUTO,), precision, plan),
        *(peer_contender(peer, plan) for peer in choose_peers(only or ())),
    )
    outcomes = measure_peers(
        contenders,
        Schedule(0, warm_up, repeats, seconds),
        photos,
        lambda text: say(err, text, style="dim"),
        session.progress,
    )
    timings, memory = make_timings(outcomes, len(photos)), make_memory(outcomes)
    rows = (*make_rows(timings), *make_memory_rows(memory))
    session.show(figures_table(outcomes, rows, len(photos)), environments_table(outcomes))
    for line in warn_of_noise(timings):
        say(err, f"warning: {line}", style="yellow")
    for outcome in outcomes:
        session.add(make_subject(outcome))
    measured = Measurements(
        timings=tuple(timings),
        memory=memory,
        conditions=describe_conditions(ORDER),
        peers=tuple(outcome.participant() for outcome in outcomes),
    )
    return Outcome(data, PROTOCOL, rows, measured)


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
