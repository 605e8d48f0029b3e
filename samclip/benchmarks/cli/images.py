"""`samclip-bench accuracy images`: how well whole images are named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.baselines.encoders import BundleEncoder, ImageEncoder
from samclip.benchmarks.accuracy.images import IMAGES_PROTOCOL, Classifier, evaluate_images
from samclip.benchmarks.class_names import class_vocabulary
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.session import Setup, open_session
from samclip.benchmarks.data.image_folder import keep_only, read_image_folder
from samclip.benchmarks.data.sample import spread
from samclip.benchmarks.report import Data
from samclip.cli import options as shared
from samclip.export.checkpoints.fetch import CLASSES_FILE, imagenet_classes

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
        metavar="FILE",
        show_default="all photos",
        help="Use the photos that this text file lists, one file name or SHA-256 a line, for "
        "instance held_back.txt of a run of samclip-merge. The classes stay.",
    ),
]


def images(  # noqa: PLR0913, PLR0917 - one parameter an option, as typer wants it
    folder: Folder,
    bundle: shared.Bundle = None,
    classes: Classes = None,
    only: Only = None,
    templates: shared.Templates = None,
    teacher: options.Teacher = None,
    teacher_options: options.TeacherOptions = None,
    limit: options.Limit = None,
    json: options.Json = None,
    backend: shared.Backend = "auto",
    precision: shared.Precision = None,
    threads: shared.Threads = None,
    debug: shared.Debug = False,
) -> None:
    """Measure top-1 and top-5 of whole photos over all class names.

    With --teacher also the teacher's, through names as the bundle, and its classifier's own where
    the classes are ImageNet's thousand.
    """
    setup = Setup(bundle, backend, precision, threads, json)
    with open_session("accuracy images", setup, debug) as session:
        whole = read_image_folder(folder, _listing(classes))
        chosen = whole if only is None else keep_only(whole, only)
        photos = spread(chosen.photos, limit)
        candidate = session.open_bundle(names=True)
        vocabulary = class_vocabulary(candidate.model, whole.names, {}, templates)
        encoders: dict[str, ImageEncoder] = {candidate.name: BundleEncoder(candidate.model)}
        classifiers: dict[str, Classifier] = {}
        if teacher is not None:
            name, found = session.open_teacher(teacher, teacher_options)
            found.check_space(candidate.model)
            encoders[f"{name} by names"] = found
            if whole.keys == tuple(entry.wnid for entry in imagenet_classes()):
                classifiers[f"{name} by classes"] = found
        rows = evaluate_images(photos, vocabulary, encoders, classifiers, session.track)
        session.finish(Data.of(folder, "ImageNet", photos, whole.photos), IMAGES_PROTOCOL, rows)


def _listing(classes: str | None) -> Path | None:
    """Find the file that lists the classes; None when there is none."""
    if classes is None:
        return None
    return CLASSES_FILE if classes == IMAGENET else Path(classes).expanduser()
