"""`samclip-bench roofline`: the work of every graph, and how near it comes to the best rate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.cli import options
from samclip.benchmarks.cli import speed_options as speed
from samclip.benchmarks.cli.session import Session, Setup, open_session
from samclip.benchmarks.latency.contenders import Variant, combine, name_all
from samclip.benchmarks.report import Data, Measurements, describe_bundle
from samclip.benchmarks.roofline.figures import make_rows as make_roofline_rows
from samclip.benchmarks.roofline.figures import show_roofline
from samclip.benchmarks.roofline.jetson import NOTE, estimate
from samclip.benchmarks.roofline.measure import (
    Counted,
    describe_graphs,
    open_counted,
    time_graphs,
)
from samclip.benchmarks.roofline.protocol import PROTOCOL as ROOFLINE_PROTOCOL
from samclip.benchmarks.roofline.rates import measure_rates
from samclip.benchmarks.roofline.records import Roofline
from samclip.cli import options as shared
from samclip.cli.terminal import out, say
from samclip.engines.machine.host import usable_cores
from samclip.engines.registry import get_backend
from samclip.runtime.assets import packaged_photos

ROOFLINE_EXAMPLES = """
**Examples:**

- `samclip-bench roofline my-bundle`

- `samclip-bench roofline my-bundle --backend onnxruntime --backend openvino --json roofline.json`
"""

Photo = Annotated[
    Path | None,
    typer.Option(
        "--photo",
        metavar="FILE",
        show_default="one that comes with samclip",
        help="The photo that the graphs run on.",
    ),
]
RooflineRepeats = Annotated[
    int, typer.Option("--repeats", min=1, metavar="N", help="Runs of each graph.")
]


def roofline(
    bundles: speed.Bundles = None,
    backend: speed.Backends = None,
    precision: speed.Precisions = None,
    threads: shared.Threads = None,
    photo: Photo = None,
    repeats: RooflineRepeats = 7,
    json: options.Json = None,
    debug: shared.Debug = False,
) -> None:
    """Count the work of every graph, time it, and compare with what this machine can do.

    Multiply-accumulates, parameters and bytes are counted from the ONNX graphs; the machine's
    rates are measured with graphs of nothing but products, and a copy of memory. Jetson figures
    are ESTIMATES from published rates. Needs the extra `bench`.
    """
    variants = combine(bundles or (), backend or (), precision or (), threads)
    with (
        open_session("roofline", Setup(threads=threads, json=json), debug) as session,
        tempfile.TemporaryDirectory(prefix="samclip-bench-") as cache,
    ):
        models = _open_model(session, variants, Path(cache))
        chosen = photo or sorted(packaged_photos().glob("*.jpg"))[0]
        hosts = {m.backend.name for m in models if m.backend.on_host} | {"onnxruntime"}
        backends = [get_backend(name) for name in sorted(hosts)]
        rates = measure_rates(backends, threads or usable_cores(), session.track)
        time_graphs(models, chosen, repeats, session.track)
        graphs = tuple(entry for m in models for entry in describe_graphs(m, rates))
        found = Roofline(graphs=graphs, rates=rates, estimates=estimate(graphs), estimate_note=NOTE)
        session.show(*show_roofline(found))
        say(out, NOTE, style="dim")
        data = Data.of(chosen, "photos", [chosen], [chosen])
        session.finish(
            data, ROOFLINE_PROTOCOL, make_roofline_rows(found), Measurements(roofline=found)
        )


def _open_model(session: Session, variants: tuple[Variant, ...], cache: Path) -> list[Counted]:
    """Load every variant; the session closes them, and its report lists them."""
    opened = []
    for number, variant in enumerate(variants):
        model, backend = open_counted(variant, cache / f"texts-{number}")
        session.hold(model)
        opened.append((variant, model, backend))
    names = [contender.name for contender in name_all(opened)]
    models = [Counted(name, m, b) for name, (_, m, b) in zip(names, opened, strict=True)]
    for counted in models:
        precision = counted.backend.precisions["encoder"]
        session.add(describe_bundle(counted.model, counted.name, "measured", precision))
    return models
