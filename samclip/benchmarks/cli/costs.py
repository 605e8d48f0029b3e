"""`samclip-bench amortised`: one pass for three tasks, against SAM and CLIP run apart.

`samclip-bench roofline`: the work of every graph, and how near it comes to the best rate.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.amortised.clip_vision import CONFIGS, Architecture
from samclip.benchmarks.amortised.comparison import PROTOCOL, count_ways, make_rows, show_amortised
from samclip.benchmarks.amortised.pipelines import Models, measure_ways
from samclip.benchmarks.amortised.second_model import SecondModel, open_second
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Session, Setup, open_session
from samclip.benchmarks.latency.contenders import Variant, combine, describe_conditions, name_all
from samclip.benchmarks.latency.rounds import ORDER, Schedule
from samclip.benchmarks.records import Data, Measurements, Roofline, Subject
from samclip.benchmarks.report import describe_bundle
from samclip.benchmarks.roofline.counted import Counted, describe_graphs, open_counted, time_graphs
from samclip.benchmarks.roofline.efficiency import PROTOCOL as ROOFLINE_PROTOCOL
from samclip.benchmarks.roofline.efficiency import make_rows as make_roofline_rows
from samclip.benchmarks.roofline.efficiency import show_roofline
from samclip.benchmarks.roofline.jetson import NOTE, estimate
from samclip.benchmarks.roofline.rates import measure_rates
from samclip.cli import options as shared
from samclip.cli.terminal import out, say
from samclip.engines.base import EngineOptions
from samclip.engines.machine.host import usable_cores
from samclip.engines.registry import get_backend
from samclip.errors import CapabilityError
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.image import photo_paths

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
Repeats = Annotated[int, typer.Option("--repeats", min=2, metavar="N", help="Rounds.")]
WarmUp = Annotated[int, typer.Option("--warm-up", min=0, metavar="N", help="Rounds not kept.")]


def amortised(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    bundle: shared.Bundle = None,
    sam: Sam = None,
    clip: Clip = "vit-b-16",
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    photos: options.Photos = None,
    limit: options.Limit = None,
    repeats: Repeats = 8,
    warm_up: WarmUp = 1,
    json: options.Json = None,
    debug: shared.Debug = False,
) -> None:
    """Time 1, 10 and 100 prompts with names and a semantic map: merged, and SAM beside CLIP.

    Two baselines, because which one is fair depends on what is asked: CLIP at 224 px names the
    whole photo only, dense CLIP at 1024 px gives a map too. Needs the extra `bench`.
    """
    with (
        open_session("amortised", Setup(threads=threads, json=json), debug) as session,
        tempfile.TemporaryDirectory(prefix="samclip-bench-") as cache,
    ):
        chosen = options.choose_photos(photos, limit)
        merged = _open(session, Variant(bundle, backend, precision, threads), "merged", Path(cache))
        if merged.model.manifest.clip_head is None:
            raise CapabilityError(
                f"bundle {merged.name!r} has no CLIP head, so it gives no semantic map, one of the "
                "three tasks. Give one that has."
            )
        alone = Variant(sam or bundle, merged.backend.name, precision, threads)
        other = _open(session, alone, "SAM alone", Path(cache))
        with (
            closing(_second(session, merged, clip, threads, dense=False)) as whole,
            closing(_second(session, merged, clip, threads, dense=True)) as dense,
        ):
            models = Models(merged.model, other.model, whole, dense)
            timings = measure_ways(models, Schedule(0, warm_up, repeats), chosen, session.track)
        costs = count_ways(merged, other, whole.work, dense.work)
        session.show(show_amortised(timings, costs))
        measured = Measurements(timings=tuple(timings), conditions=describe_conditions(ORDER))
        data = Data.of(photos or options.PACKAGED, "photos", chosen, photo_paths(photos))
        session.finish(data, PROTOCOL, make_rows(timings, costs), measured)


def _open(session: Session, variant: Variant, role: str, cache: Path) -> Counted:
    model, backend = open_counted(variant, cache)
    session.hold(model)
    name = f"{model.manifest.name} ({role})"
    session.add(describe_bundle(model, name, role, backend.precisions["encoder"]))
    return Counted(name, model, backend)


def _second(
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
        )
    )
    return model


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
    bundles: options.Bundles = None,
    backend: options.Backends = None,
    precision: options.Precisions = None,
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
