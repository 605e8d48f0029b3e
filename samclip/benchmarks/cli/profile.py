"""Command `samclip-bench profile`: where the time of graphs goes, node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.html.named_reports import NamedReport, NamedReports
from samclip.benchmarks.html.page import render
from samclip.benchmarks.measurements import Measurements, Statistic
from samclip.benchmarks.profiling.operators import (
    PROTOCOL,
    make_rows,
    nodes_table,
    operators_table,
)
from samclip.benchmarks.profiling.profiled import (
    ProfiledBackend,
    profile_graphs,
)
from samclip.benchmarks.profiling.stacks import ROOT, fold
from samclip.benchmarks.records import Report
from samclip.benchmarks.report import check_writable
from samclip.cli.given_paths import parse_path
from samclip.runtime.pixels.image import load_image

EXAMPLES = """
**Examples:**

- `samclip-bench profile my-bundle`

- `samclip-bench profile my-bundle --html profile.html --folded profile.folded`

- `samclip-bench profile my-bundle --backend onnxruntime --backend openvino --nodes 10`

- `samclip-bench profile my-bundle --best --json after.json`, on a machine that does other work;
  then `samclip-bench compare before.json after.json`
"""
_PROFILE = "Profile"

Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", min=1, metavar="N", rich_help_panel=_PROFILE, help="Runs of each graph."
    ),
]
Best = Annotated[
    bool,
    typer.Option(
        "--best",
        rich_help_panel=_PROFILE,
        help="Show each node's fastest run in place of its median: for a machine that is busy.",
    ),
]
Nodes = Annotated[
    int,
    typer.Option(
        "--nodes",
        min=0,
        metavar="N",
        rich_help_panel=_PROFILE,
        help="List the N slowest nodes of each graph too, with their modules and shapes.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_PROFILE,
        show_default=False,
        help="Write a page with a flame graph of each graph; it loads nothing. `samclip-bench "
        "report` makes the same page of what --json wrote.",
    ),
]
Folded = Annotated[
    Path | None,
    typer.Option(
        "--folded",
        parser=parse_path,
        metavar="FILE",
        rich_help_panel=_PROFILE,
        show_default=False,
        help="Write folded stacks, in microseconds, for speedscope, inferno or flamegraph.pl.",
    ),
]


@benchmark("profile")
def profile(
    session: Session,
    *,
    models: options.VariantOptions,
    photo: options.Photo = None,
    repeats: Repeats = 7,
    best: Best = False,
    nodes: Nodes = 0,
    html: Html = None,
    folded: Folded = None,
    report: options.ReportOptions,  # noqa: ARG001 - the harness reads it
) -> Outcome:
    """Show where the time of each graph goes: by operator, by module, by node.

    The engine's own profiler times every node, with the threads and settings that samclip runs
    with. Start with the table: an operator with a large share and few GFLOP/s is what to look at.
    What is 'between nodes' no kernel can save. Then --nodes or the flame graph says in which
    modules it is. To know how fast the machine could be, run `samclip-bench roofline`.

    For the backends onnxruntime and openvino, and for cuda where ONNX Runtime was built with
    --enable_cuda_profiling. TensorRT times its layers itself: trtexec --dumpProfile. Work is
    counted where onnx is installed (the extra `bench`).
    """
    files: list[tuple[Path, Callable[[Report], bytes]]] = []
    if html is not None:
        files.append((check_writable(html, b"<!doctype html"), _page))
    if folded is not None:
        files.append((check_writable(folded, f"{ROOT};".encode()), _folded))
    chosen, data = options.choose_photo(photo)
    load_image(chosen)  # what is wrong with it is said now, and not when the models are loaded
    opened = session.open_all(models.variants(), ProfiledBackend)
    statistic: Statistic = "minimum" if best else "median"
    profiles = profile_graphs(opened, chosen, repeats, statistic, session.progress)
    for one in profiles:
        session.show(operators_table(one))
        if nodes:
            session.show(nodes_table(one, nodes))
    measured = Measurements(profiles=profiles)
    return Outcome(data, PROTOCOL, make_rows(profiles), measured, files)


def _page(report: Report) -> bytes:
    return render(NamedReports((NamedReport("profile", report),))).encode()


def _folded(report: Report) -> bytes:
    return fold(report.profiles).encode()
