"""`samclip demo`: all three tasks on one photo, in one picture.

All three tasks on one scene: what `samclip demo` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from samclip.cli import options
from samclip.cli.arguments import read_names
from samclip.cli.exits import reported
from samclip.cli.run_task import Request, Task, answer_images
from samclip.runtime.assets import packaged_photos
from samclip.runtime.results.masks import AutoMasks, Masks
from samclip.runtime.results.poster import Overview

if TYPE_CHECKING:
    from rich.table import Table

    from samclip.runtime.results.poster import Overview
    from samclip.runtime.scene import Scene, Templates

EXAMPLES = """
**Examples:**

- `samclip demo`

- `samclip demo street.jpg --names "car,bus,road,sky" --output demo.png`
"""

PHOTO = "coffee.jpg"
PHOTO_NAMES = ("cup of coffee", "wooden table", "cat", "rocket")
PHOTO_BOXES = ((172.0, 17.0, 410.0, 308.0),)  # the cup
COMMON_NAMES = (
    *("person", "cat", "dog", "bird", "horse", "car", "bus", "bicycle", "boat", "airplane"),
    *("tree", "flower", "grass", "sky", "water", "road", "building", "furniture", "food", "cup"),
)

Photos = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[IMAGE]",
        show_default="a photo that comes with samclip",
        help="Image files, or folders of images; a picture each.",
    ),
]


def demo(
    images: Photos = None,
    boxes: options.Boxes = None,
    names: options.Names = None,
    labels: options.Labels = None,
    templates: options.Templates = None,
    output: options.Output = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    streams: options.Streams = None,
    debug: options.Debug = False,
) -> None:
    """Show everything that one encoder pass answers: classify, segment and semantic in one picture.

    Without --names, names of common things; without --box, the largest objects that are found.
    Draws STEM.demo.png into the current folder unless --output or --json is given.
    """
    with reported(debug):
        given = read_names(names, labels)
        vocabulary = given or list(COMMON_NAMES if images else PHOTO_NAMES)
        shown = boxes or (None if images else PHOTO_BOXES)

        def ask(scene: Scene) -> Overview:

            return look_over(scene, vocabulary, shown, templates)

        task = Task("demo", ask, lambda answer: answer.to_dict(), show_overview)
        photos = images or [packaged_photos() / PHOTO]
        answer_images(
            Request(photos, bundle, backend, precision, threads, streams, output, as_json), task
        )


def show_overview(answer: Overview) -> Table:
    """List each task's answer in a line."""
    from rich.markup import escape

    from samclip.cli.tables import make_table

    answers = {
        "classify": [f"{name} {share:.0%}" for name, share in answer.classification.top(3)],
        "segment": answer.masks.captions(),
        "semantic": [f"{name} {share:.0%}" for name, share in answer.shares.items()],
    }
    table = make_table("task", "answer", left=("task", "answer"))
    for task, parts in answers.items():
        table.add_row(task, escape(", ".join(parts)))
    return table


POINTS_PER_SIDE = 8  # 64 prompts find what is large
MOST_MASKS = 3
AREAS = (0.01, 0.7)  # of the image: neither crumbs nor backgrounds
MAX_OVERLAP = 0.2  # of the smaller mask


def look_over(
    scene: Scene,
    names: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]] | None = None,
    templates: Templates = None,
) -> Overview:
    """Classify a scene, segment and name what `boxes` show, and name every pixel.

    `boxes`: XYXY in pixels of the image; None for the largest objects that SAM's automatic masks
    find, or what is in the middle when they find none. Raises as the tasks do.
    """
    return Overview(
        classification=scene.classify(names, templates=templates),
        masks=_find(scene, names, boxes, templates),
        semantic=scene.semantic(names, templates=templates, refine=True),
    )


def _find(
    scene: Scene,
    names: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float]] | None,
    templates: Templates,
) -> Masks:
    if boxes:
        return scene.segment(boxes=np.asarray(boxes), names=names, templates=templates)
    found = scene.everything(names=names, templates=templates, points_per_side=POINTS_PER_SIDE)
    chosen = found[prominent(found)]
    if len(chosen):
        return chosen
    height, width = scene.size
    return scene.segment(points=[(width / 2, height / 2)], names=names, templates=templates)


def prominent(masks: AutoMasks) -> NDArray[np.int64]:
    """Choose the largest masks that stand apart and are no backgrounds: indices, largest first."""
    shares = masks.areas / (masks.packed.size[0] * masks.packed.size[1])
    chosen: list[int] = []
    for row in np.argsort(-shares, kind="stable").tolist():
        inside = AREAS[0] <= shares[row] <= AREAS[1]
        if inside and len(chosen) < MOST_MASKS and _stands_apart(masks, row, chosen):
            chosen.append(row)
    return np.asarray(chosen, np.int64)


def _stands_apart(masks: AutoMasks, row: int, larger: Sequence[int]) -> bool:
    mask = masks.packed.unpack(row)
    limit = MAX_OVERLAP * masks.areas[row]
    return all((mask & masks.packed.unpack(other)).sum() <= limit for other in larger)
