"""`samclip-bench accuracy instances`: how well masks fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.accuracy import detections as detected
from samclip.benchmarks.accuracy import instances as known
from samclip.benchmarks.candidates import Candidate
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Session, Setup, open_session
from samclip.benchmarks.data.coco import CocoFolder, read_coco
from samclip.benchmarks.data.detections import read_detections
from samclip.benchmarks.data.sample import spread
from samclip.benchmarks.report import Data
from samclip.cli import options as shared

INSTANCES_EXAMPLES = """
**Examples:**

- `samclip-bench accuracy instances path/to/coco --bundle my-bundle`

- `samclip-bench accuracy instances path/to/coco --bundle my-bundle --against mobile_sam --json
  instances.json`

- `samclip-bench accuracy instances path/to/coco --annotations annotations/lvis_v1_val.json
  --boxes vitdet_lvis.json`
"""

Boxes = Annotated[
    Path | None,
    typer.Option(
        "--boxes",
        metavar="FILE",
        show_default="boxes and points of the annotated objects",
        help="A detector's boxes in COCO's results format; AP of their masks, by its scores.",
    ),
]
Refine = Annotated[
    bool,
    typer.Option("--refine/--no-refine", help="Measure masks after one refinement as well."),
]


def instances(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    folder: options.CocoFolder,
    bundle: shared.Bundle = None,
    boxes: Boxes = None,
    refine: Refine = True,
    against: options.Against = None,
    annotations: options.Annotations = None,
    limit: options.Limit = None,
    json: options.Json = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    debug: shared.Debug = False,
) -> None:
    """Measure mIoU and AP of masks from box prompts and point prompts, and refined once.

    Over all objects, by size, and in LVIS by frequency; crowds are left out. With --boxes, AP of
    the masks that a detector's boxes become.
    """
    setup = Setup(bundle, backend, precision, threads, json)
    with open_session("accuracy instances", setup, debug) as session:
        coco = read_coco(folder, annotations)
        candidates = [session.open_bundle()]
        if against is not None:
            candidates.append(session.open(against, "against"))
        if boxes is None:
            _measure_known(session, candidates, coco, limit, refine)
        else:
            _measure_detected(session, candidates, coco, boxes, limit, refine)


def _measure_known(
    session: Session,
    candidates: Sequence[Candidate],
    coco: CocoFolder,
    limit: int | None,
    refine: bool,
) -> None:
    photos = spread(coco.photos, limit)
    rows = known.evaluate_instances(
        candidates, photos, coco.categories, refine=refine, track=session.track
    )
    data = Data.of(coco.path, coco.layout, photos, coco.photos, coco.left_out)
    session.finish(data, known.PROTOCOL, rows)


def _measure_detected(
    session: Session,
    candidates: Sequence[Candidate],
    coco: CocoFolder,
    boxes: Path,
    limit: int | None,
    refine: bool,
) -> None:
    detections = read_detections(boxes, coco)
    every = sorted((*coco.photos, *coco.bare), key=lambda photo: photo.path)
    photos = spread(every, limit)
    rows = detected.evaluate_detections(
        candidates, photos, coco.categories, detections, refine=refine, track=session.track
    )
    left_out = {**coco.left_out, **detections.left_out}
    data = Data.of(coco.path, coco.layout, photos, every, left_out)
    session.finish(data, detected.PROTOCOL, rows)
