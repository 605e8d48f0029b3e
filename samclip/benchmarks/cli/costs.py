"""Commands `samclip-bench amortised` and `samclip-bench roofline`: work counted and timed."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import Annotated

import typer

from samclip.benchmarks.amortised.clip_vision import CONFIGS, Architecture
from samclip.benchmarks.amortised.comparison import (
    PROTOCOL,
    amortised_table,
    count_ways,
    make_rows,
)
from samclip.benchmarks.amortised.pipelines import Models, measure_ways
from samclip.benchmarks.amortised.second_model import SecondModel, open_second
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.latency.contenders import Variant, describe_conditions
from samclip.benchmarks.latency.rounds import ORDER, Schedule
from samclip.benchmarks.measurements import Measurements, Roofline
from samclip.benchmarks.records import Subject
from samclip.benchmarks.roofline.counted import (
    Counted,
    CountedBackend,
    describe_graphs,
    time_graphs,
)
from samclip.benchmarks.roofline.efficiency import PROTOCOL as ROOFLINE_PROTOCOL
from samclip.benchmarks.roofline.efficiency import estimates_table, graphs_table, rates_table
from samclip.benchmarks.roofline.efficiency import make_rows as make_roofline_rows
from samclip.benchmarks.roofline.jetson_estimates import NOTE, estimate
from samclip.benchmarks.roofline.rates import measure_rates
from samclip.cli import options as shared
from samclip.cli.terminal import out, say
from samclip.engines.base import EngineOptions
from samclip.engines.machine.host import usable_cores
from samclip.engines.registry import get_backend
from samclip.errors import CapabilityError
from samclip.runtime.pixels.image import load_image

AMORTISED_EXAMPLES = """
**Examples:**

- `samclip-bench amortised --bundle my-bundle --json amortised.json`

- `samclip-bench amortised --bundle my-bundle --sam sam-bundle --clip vit-l-14 --repeats 5`
"""
NAMES = 20

Sam = Annotated[
    str | None,
    typer.Option(
        "--sam",
        metavar="NAME_OR_PATH",
        show_default="the bundle itself, its head unused",
        help="The bundle that stands for SAM alone.",
    ),
]
Clip = Annotated[
    Architecture,
    typer.Option("--clip", metavar="vit-b-16|vit-l-14", help="CLIP's vision encoder."),
]


@benchmark("amortised")
def amortised(
    session: Session,
    *,
    bundle: shared.Bundle = None,
    sam: Sam = None,
    clip: Clip = "vit-b-16",
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    source: options.PhotoOptions,
    repeats: options.Repeats = 8,
    warm_up: options.WarmUp = 1,
    report: options.ReportOptions,  # noqa: ARG001 - the harness reads it
) -> Outcome:
    """Time 1, 10 and 100 prompts with names and a semantic map: merged, and SAM next to CLIP.

    Two baselines, because which one is fair depends on what is asked: CLIP at 224 px names the
    whole photo only, dense CLIP at 1024 px gives a map too. Needs the extra `bench`.
    """
    cache = session.make_folder()
    photos, data = source.choose()
    variant = Variant(bundle, backend, precision, threads)
    merged = session.open_counted(variant, "merged", cache=cache, name_role=True)
    if merged.model.manifest.clip_head is None:
        raise CapabilityError(
            f"bundle {merged.name!r} has no CLIP head, so it gives no semantic map, one of the "
            "three tasks. Give one that has."
        )
    alone = Variant(sam or bundle, merged.backend.name, precision, threads)
    other = session.open_counted(alone, "SAM alone", cache=cache, name_role=True)
    with (
        closing(_open_second(session, merged, clip, threads, dense=False)) as whole,
        closing(_open_second(session, merged, clip, threads, dense=True)) as dense,
    ):
        models = Models(merged.model, other.model, whole, dense)
        timings = measure_ways(models, Schedule(0, warm_up, repeats), photos, session.progress)
    rows = make_rows(timings, count_ways(merged, other, whole.work, dense.work))
    table = amortised_table(rows)
    if table is not None:
        session.show(table)
    measured = Measurements(timings=tuple(timings), conditions=describe_conditions(ORDER))
    return Outcome(data, PROTOCOL, rows, measured)


def _open_second(
    session: Session, merged: Counted, clip: Architecture, threads: int | None, *, dense: bool
) -> SecondModel:
    options = EngineOptions(threads=threads)
    model = open_second(CONFIGS[clip], merged.backend.inner, options, NAMES, dense=dense)
    name = f"CLIP {clip} at {model.image_size} px, random weights"
    session.add(
        Subject(
            name=name,
            role="CLIP alone",
            backend=merged.backend.name,
            precision="fp32",
            image_size=model.image_size,
            fingerprint=hashlib.sha256(name.encode()).hexdigest(),  # its weights do not matter
        )
    )
    return model


ROOFLINE_EXAMPLES = """
**Examples:**

- `samclip-bench roofline my-bundle`

- `samclip-bench roofline my-bundle --backend onnxruntime --backend openvino --json roofline.json`
"""

RooflineRepeats = Annotated[
    int, typer.Option("--repeats", min=1, metavar="N", help="Runs of each graph.")
]


@benchmark("roofline")
def roofline(
    session: Session,
    *,
    models: options.VariantOptions,
    photo: options.Photo = None,
    repeats: RooflineRepeats = 7,
    report: options.ReportOptions,  # noqa: ARG001 - the harness reads it
) -> Outcome:
    """Count the work of every graph, time it, and compare with what this machine can do.

    Multiply-accumulates, parameters and bytes are counted from the ONNX graphs; the machine's
    rates are measured with graphs of nothing but products, and a copy of memory. Jetson figures
    are ESTIMATES from published rates. Needs the extra `bench`.
    """
    chosen, data = options.choose_photo(photo)
    load_image(chosen)  # what is wrong with it is said now, and not when the rates are measured
    opened = session.open_all(models.variants(), CountedBackend)
    hosts = {one.backend.name for one in opened if one.backend.on_host} | {"onnxruntime"}
    backends = [get_backend(name) for name in sorted(hosts)]
    rates = measure_rates(backends, models.threads or usable_cores(), session.progress)
    samples = time_graphs(opened, chosen, repeats, session.progress)
    graphs = tuple(
        graph for one in opened for graph in describe_graphs(one, samples[one.name], rates)
    )
    found = Roofline(graphs=graphs, rates=rates, estimates=estimate(graphs), estimate_note=NOTE)
    session.show(rates_table(rates), graphs_table(found), estimates_table(found.estimates))
    say(out, NOTE, style="dim")
    measured = Measurements(roofline=found)
    return Outcome(data, ROOFLINE_PROTOCOL, make_roofline_rows(found), measured)
