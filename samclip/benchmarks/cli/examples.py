"""Command `samclip-bench accuracy examples`: what examples of names gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.accuracy.examples import (
    PROTOCOL,
    embed_objects,
    embed_photos,
    evaluate_examples,
)
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.data.coco import CocoPhoto, find_layout, read_coco
from samclip.benchmarks.data.image_folder import ClassPhoto, read_image_folder, spread
from samclip.benchmarks.records import Data
from samclip.cli import options as shared
from samclip.cli.arguments import read_names
from samclip.cli.given_paths import parse_path
from samclip.errors import VocabularyError, did_you_mean

EXAMPLES = """
**Examples:**

- `samclip-bench accuracy examples path/to/nouns --names "ferry,rooster,sunflower"`

- `samclip-bench accuracy examples path/to/coco --names "orange,carrot" --count 1 --count 16`
"""
COUNTS = (1, 4, 16)

Folder = Annotated[
    Path,
    typer.Argument(
        parser=parse_path,
        metavar="FOLDER",
        show_default=False,
        help="A folder of photos for each class, which are shown whole; or a folder in COCO's "
        "layout, whose objects are shown by their masks.",
    ),
]
Counts = Annotated[
    list[int] | None,
    typer.Option(
        "--count",
        min=1,
        metavar="N",
        show_default="1, 4 and 16",
        help="The number of examples of a name; may be repeated.",
    ),
]


Rivals = Annotated[
    Path | None,
    typer.Option(
        "--rivals",
        parser=parse_path,
        metavar="FILE",
        show_default="none",
        help="Further names, one a line, that compete by their texts alone.",
    ),
]


@benchmark("accuracy examples")
def examples(
    session: Session,
    *,
    folder: Folder,
    bundle: shared.Bundle = None,
    names: shared.Names = None,
    labels: shared.Labels = None,
    rivals: Rivals = None,
    counts: Counts = None,
    templates: shared.Templates = None,
    run: options.ModelOptions,
) -> Outcome:
    """Measure the top-1 of names with 1, 4 and 16 examples of each, and by their texts alone.

    --names and --labels keep to these classes, for instance those that a bundle was not taught.
    Half of the photos give examples, and the other half is named.
    """
    given = read_names(names, labels)
    if find_layout(folder).annotations.is_file():
        coco = read_coco(folder)
        chosen = given or coco.names
        kept = find_classes(coco.names, chosen)
        found = [keep_objects(photo, kept) for photo in coco.photos]
        photos = spread([photo for photo in found if photo.objects], run.limit)
        data = Data.of(folder, "COCO", photos, coco.photos, coco.left_out)
        candidate = session.open(run.variant(bundle), "measured", names=True)
        pictures = embed_objects(candidate, photos, session.progress)
    else:
        whole = read_image_folder(folder)
        chosen = given or whole.names
        kept = find_classes(whole.names, chosen)
        shown = [photo for photo in whole.photos if photo.category in kept]
        used = spread(shown, run.limit)
        data = Data.of(folder, "ImageNet", used, whole.photos, whole.listing.counts)
        candidate = session.open(run.variant(bundle), "measured", names=True)
        numbered = [ClassPhoto(photo.path, kept[photo.category]) for photo in used]
        pictures = embed_photos(candidate, numbered, session.progress)
    others = [name for name in read_names(None, rivals) or () if name not in chosen]
    vocabulary = candidate.model.vocabulary([*chosen, *others], templates)
    rows = evaluate_examples(candidate, vocabulary, pictures, counts or COUNTS)
    return Outcome(data, PROTOCOL, rows)


def find_classes(classes: Sequence[str], chosen: Sequence[str]) -> dict[int, int]:
    """Return the place among the `chosen` names of each class that is one, by the class's place.

    Raises VocabularyError for a name that is not a class.
    """
    for name in chosen:
        if name not in classes:
            raise VocabularyError(
                f"{name!r:.60} is not a class of the data{did_you_mean(name, classes)}. Give "
                "classes of the folder."
            )
    return {classes.index(name): place for place, name in enumerate(chosen)}


def keep_objects(photo: CocoPhoto, kept: Mapping[int, int]) -> CocoPhoto:
    """Return a photo with the objects of the classes `kept`, numbered as that says."""
    objects = tuple(
        replace(found, category=kept[found.category])
        for found in photo.objects
        if found.category in kept
    )
    return replace(photo, objects=objects)
