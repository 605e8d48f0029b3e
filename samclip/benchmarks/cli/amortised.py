"""`samclip-bench amortised`: one pass for three tasks, against SAM and CLIP run apart."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.amortised.clip_vision import CONFIGS, Architecture
from samclip.benchmarks.amortised.costs import count_ways
from samclip.benchmarks.amortised.figures import make_rows, show_amortised
from samclip.benchmarks.amortised.protocol import PROTOCOL
from samclip.benchmarks.amortised.second_model import SecondModel, open_second
from samclip.benchmarks.amortised.ways import Models, measure_ways
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli import speed_options as speed
from samclip.benchmarks.cli.session import Session, Setup, open_session
from samclip.benchmarks.latency.conditions import describe_conditions
from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.latency.rounds import ORDER, Schedule
from samclip.benchmarks.report import Data, Measurements, Subject, describe_bundle
from samclip.benchmarks.roofline.measure import Counted, open_counted
from samclip.cli import options as shared
from samclip.engines.base import EngineOptions
from samclip.errors import CapabilityError
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
    photos: speed.Photos = None,
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
        chosen = speed.choose_photos(photos, limit)
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
        data = Data.of(photos or speed.PACKAGED, "photos", chosen, photo_paths(photos))
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
