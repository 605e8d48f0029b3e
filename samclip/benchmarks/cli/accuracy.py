"""Commands `samclip-bench accuracy images`, `instances`, `everything` and `names`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.baselines import BundleEncoder
from samclip.benchmarks.accuracy import detections as detected
from samclip.benchmarks.accuracy import everything as searched
from samclip.benchmarks.accuracy import instances as known
from samclip.benchmarks.accuracy.names import (
    IMAGES_PROTOCOL,
    ON_CROPS,
    PROTOCOL,
    Classifier,
    ImageNamer,
    evaluate_images,
    evaluate_names,
)
from samclip.benchmarks.class_names import (
    ask_alike,
    class_vocabulary,
    other_vocabularies,
    read_synonyms,
)
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.data.coco import read_coco
from samclip.benchmarks.data.detector_boxes import read_detections
from samclip.benchmarks.data.image_folder import keep_only, read_image_folder, spread
from samclip.benchmarks.records import Data
from samclip.cli import options as shared
from samclip.cli.given_paths import parse_path
from samclip.cli.terminal import err, say, say_note
from samclip.export.checkpoints.imagenet_classes import CLASSES_FILE, imagenet_classes

IMAGES_EXAMPLES = """
**Examples:**

- `samclip-bench accuracy images path/to/imagenet --bundle my-bundle --classes imagenet`

- `samclip-bench accuracy images path/to/photos --bundle my-bundle --classes classes.txt
  --only runs/my-run/held_back.txt --teacher conse --json images.json`
"""

IMAGENET = "imagenet"

Folder = Annotated[
    Path,
    typer.Argument(
        parser=parse_path,
        metavar="FOLDER",
        show_default=False,
        help="Photos <wnid>_<name>.jpg, or a folder for each class.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="imagenet|FILE",
        show_default="the classes that have photos, by their files' names",
        help="All classes that compete: a text file with one a line, its key (the photo's wnid, or "
        "its folder) and its name; 'imagenet' for the thousand that come with samclip.",
    ),
]
Only = Annotated[
    Path | None,
    typer.Option(
        "--only",
        parser=parse_path,
        metavar="FILE",
        show_default="all photos",
        help="Use the photos that this text file lists, one file name or SHA-256 a line, for "
        "instance held_back.txt of a run of samclip-merge. The classes stay.",
    ),
]


@benchmark("accuracy images")
def images(
    session: Session,
    *,
    folder: Folder,
    bundle: shared.Bundle = None,
    classes: Classes = None,
    only: Only = None,
    templates: shared.Templates = None,
    against_templates: options.AgainstTemplates = None,
    teacher: options.TeacherChoice,
    run: options.ModelOptions,
) -> Outcome:
    """Measure top-1 and top-5 of whole photos over all class names, and the shares' calibration.

    With --teacher also the teacher's, through names as the bundle, and its classifier's own where
    the classes are ImageNet's thousand. With --against-templates also with other sentences.
    """
    listing = None if classes is None else parse_path(classes)
    whole = read_image_folder(folder, CLASSES_FILE if classes == IMAGENET else listing)
    if left_out := whole.listing.describe_left_out():
        say_note(left_out)
    chosen = whole if only is None else keep_only(whole, only)
    photos = spread(chosen.photos, run.limit)
    candidate = session.open(run.variant(bundle), "measured", names=True)
    vocabulary = class_vocabulary(candidate.model, whole.names, {}, templates)
    sure = candidate.model.manifest.image_confidence
    namers = {candidate.name: ImageNamer(BundleEncoder(candidate.model), vocabulary, sure)}
    classifiers: dict[str, Classifier] = {}
    if teacher.teacher is not None:
        name, found = session.open_teacher(teacher)
        asked = ask_alike(found, whole.names, {}, vocabulary)
        namers[f"{name} by names"] = ImageNamer(found, asked)
        if whole.keys == tuple(entry.wnid for entry in imagenet_classes()):
            classifiers[f"{name} by classes"] = found
    against = other_vocabularies(candidate.model, whole.names, {}, against_templates)
    rows = evaluate_images(photos, namers, classifiers, session.progress, against=against)
    data = Data.of(folder, "ImageNet", photos, whole.photos, whole.listing.counts)
    return Outcome(data, IMAGES_PROTOCOL, rows)


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
        parser=parse_path,
        metavar="FILE",
        show_default="boxes and points of the annotated objects",
        help="A detector's boxes in COCO's results format; AP of their masks, by its scores.",
    ),
]
Refine = Annotated[
    bool,
    typer.Option("--refine/--no-refine", help="Measure masks after one refinement as well."),
]


@benchmark("accuracy instances")
def instances(
    session: Session,
    *,
    folder: options.CocoFolder,
    bundle: shared.Bundle = None,
    boxes: Boxes = None,
    refine: Refine = True,
    against: options.Against = None,
    annotations: options.Annotations = None,
    run: options.ModelOptions,
) -> Outcome:
    """Measure mIoU and AP of masks from box prompts and point prompts, and refined once.

    Over all objects, by size, and in LVIS by frequency; crowds are left out. With --boxes, AP of
    the masks that a detector's boxes become.
    """
    coco = read_coco(folder, annotations)
    candidates = [session.open(run.variant(bundle), "measured")]
    if against is not None:
        candidates.append(session.open(run.variant(against), "against"))
    if boxes is None:
        photos, left_out = spread(coco.photos, run.limit), coco.left_out
        rows = known.evaluate_instances(
            candidates, photos, coco.categories, refine=refine, progress=session.progress
        )
        data = Data.of(coco.path, coco.layout, photos, coco.photos, left_out)
        return Outcome(data, known.PROTOCOL, rows)
    detections = read_detections(boxes, coco)
    every = sorted((*coco.photos, *coco.bare), key=lambda photo: photo.path)
    photos = spread(every, run.limit)
    rows = detected.evaluate_detections(
        candidates, photos, coco.categories, detections, refine=refine, progress=session.progress
    )
    left_out = {**coco.left_out, **detections.left_out}
    data = Data.of(coco.path, coco.layout, photos, every, left_out)
    return Outcome(data, detected.PROTOCOL, rows)


EVERYTHING_EXAMPLES = """
**Examples:**

- `samclip-bench accuracy everything path/to/coco --bundle my-bundle`

- `samclip-bench accuracy everything path/to/coco --points-per-side 32 --coarser 22 --limit 20`
"""

Points = Annotated[
    int,
    typer.Option("--points-per-side", min=2, metavar="N", help="The whole grid has N x N points."),
]
Coarser = Annotated[
    list[int] | None,
    typer.Option(
        "--coarser",
        min=1,
        metavar="N",
        show_default="none",
        help="Also search a whole grid of N x N points. May be given several times.",
    ),
]


@benchmark("accuracy everything")
def everything(
    session: Session,
    *,
    folder: options.CocoFolder,
    bundle: shared.Bundle = None,
    points_per_side: Points = 32,
    coarser: Coarser = None,
    annotations: options.Annotations = None,
    run: options.ModelOptions,
) -> Outcome:
    """Measure what the adaptive search of everything finds, and its time, against the whole grid.

    The share of labelled objects that have a mask, the share of the whole grid's masks that are
    found again, the points that are tried, and the time: all on the same encoded photos, in turns.
    """
    coco = read_coco(folder, annotations)
    photos = spread(coco.photos, run.limit)
    candidate = session.open(run.variant(bundle), "measured")
    rows = searched.evaluate_everything(
        candidate, photos, points_per_side, coarser or (), session.progress
    )
    data = Data.of(coco.path, coco.layout, photos, coco.photos, coco.left_out)
    return Outcome(data, searched.PROTOCOL, rows)


NAMES_EXAMPLES = """
**Examples:**

- `samclip-bench accuracy names path/to/coco --bundle my-bundle`

- `samclip-bench accuracy names path/to/coco --bundle my-bundle --margin 0.1 --teacher conse --json
  names.json`

- `samclip-bench accuracy names path/to/coco --no-crops --templates simple
  --against-templates openai`
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


@benchmark("accuracy names")
def names(
    session: Session,
    *,
    folder: options.CocoFolder,
    bundle: shared.Bundle = None,
    crops: Crops = True,
    margin: options.Margin = 0.0,
    without: options.Without = "person",
    synonyms: options.Synonyms = None,
    templates: shared.Templates = None,
    against_templates: options.AgainstTemplates = None,
    teacher: options.TeacherChoice,
    annotations: options.Annotations = None,
    run: options.ModelOptions,
) -> Outcome:
    """Measure the top-1 of the data's category names on its objects.

    From the one pass over the photo with the true mask, from a pass over each object's crop, and
    with --teacher from the teacher's on the same crops. Over all objects, those of more than
    1,024 pixels, and both without --without.
    """
    coco = read_coco(folder, annotations)
    photos = spread(coco.photos, run.limit)
    candidate = session.open(run.variant(bundle), "measured", names=True)
    texts = read_synonyms(synonyms)
    vocabulary = class_vocabulary(candidate.model, coco.names, texts, templates)
    croppers: dict[str, ImageNamer] = {}
    if crops and candidate.model.manifest.clip_head is None:
        say(err, NO_CROPS.format(name=candidate.name))
    elif crops:
        own = ImageNamer(BundleEncoder(candidate.model), vocabulary)
        croppers[f"{candidate.name} {ON_CROPS}"] = own
    if teacher.teacher is not None:
        name, encoder = session.open_teacher(teacher)
        asked = ask_alike(encoder, coco.names, texts, vocabulary)
        croppers[f"{name} {ON_CROPS}"] = ImageNamer(encoder, asked)
    rows = evaluate_names(
        candidate,
        photos,
        vocabulary,
        croppers,
        against=other_vocabularies(candidate.model, coco.names, texts, against_templates),
        margin=margin,
        apart=without,
        progress=session.progress,
    )
    data = Data.of(folder, coco.layout, photos, coco.photos, coco.left_out)
    return Outcome(data, PROTOCOL, rows)
