"""`samclip-bench accuracy names`: how well objects are named."""

from __future__ import annotations

from typing import Annotated

import typer

from samclip.baselines.encoders import BundleEncoder, ImageEncoder
from samclip.benchmarks.accuracy.names import ON_CROPS, PROTOCOL, evaluate_names
from samclip.benchmarks.class_names import class_vocabulary, read_synonyms
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Setup, open_session
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.sample import spread
from samclip.benchmarks.report import Data
from samclip.cli import options as shared
from samclip.cli.terminal import err, say

NAMES_EXAMPLES = """
**Examples:**

- `samclip-bench accuracy names path/to/coco --bundle my-bundle`

- `samclip-bench accuracy names path/to/coco --bundle my-bundle --margin 0.1 --teacher conse --json
  names.json`
"""

NO_CROPS = (
    "{name} has no CLIP head that embeds whole images, so crops are left out: it names boxes."
)
Crops = Annotated[
    bool,
    typer.Option(
        "--crops/--no-crops", help="Encode every object's crop too: a pass of the encoder for each."
    ),
]


def names(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    folder: options.CocoFolder,
    bundle: shared.Bundle = None,
    crops: Crops = True,
    margin: options.Margin = 0.0,
    without: options.Without = "person",
    synonyms: options.Synonyms = None,
    templates: shared.Templates = None,
    teacher: options.Teacher = None,
    teacher_options: options.TeacherOptions = None,
    annotations: options.Annotations = None,
    limit: options.Limit = None,
    json: options.Json = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    debug: shared.Debug = False,
) -> None:
    """Measure the top-1 of the data's category names on its objects.

    From the one pass over the photo with the true mask, from a pass over each object's crop, and
    with --teacher from the teacher's on the same crops. Over all objects, those of more than
    1,024 pixels, and both without --without.
    """
    setup = Setup(bundle, backend, precision, threads, json)
    with open_session("accuracy names", setup, debug) as session:
        coco = read_coco(folder, annotations)
        photos = spread(coco.photos, limit)
        candidate = session.open_bundle(names=True)
        texts = read_synonyms(synonyms)
        vocabulary = class_vocabulary(candidate.model, coco.names, texts, templates)
        croppers: dict[str, ImageEncoder] = {}
        if crops and candidate.model.manifest.clip_head is None:
            say(err, NO_CROPS.format(name=candidate.name))
        elif crops:
            croppers[f"{candidate.name} {ON_CROPS}"] = BundleEncoder(candidate.model)
        if teacher is not None:
            name, encoder = session.open_teacher(teacher, teacher_options)
            encoder.check_space(candidate.model)
            croppers[f"{name} {ON_CROPS}"] = encoder
        rows = evaluate_names(
            candidate,
            photos,
            vocabulary,
            croppers,
            margin=margin,
            apart=without,
            track=session.track,
        )
        data = Data.of(folder, coco.layout, photos, coco.photos, coco.left_out)
        session.finish(data, PROTOCOL, rows)
