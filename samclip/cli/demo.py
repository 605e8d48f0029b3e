"""`samclip demo`: three tasks on each photo, in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from samclip.cli import options
from samclip.cli.arguments import read_vocabulary
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.run_task import Request, Task, answer_images, open_model
from samclip.cli.terminal import in_one_line
from samclip.errors import InputError
from samclip.runtime.assets import packaged_clip, packaged_photos

if TYPE_CHECKING:
    from rich.table import Table

    from samclip.progress import Progress
    from samclip.runtime.results.poster import Overview
    from samclip.runtime.scene import Scene
    from samclip.runtime.text.vocabulary import Vocabulary

EXAMPLES = """
**Examples:**

- `samclip demo`

- A video, with a cup that is followed: `samclip demo --video`

- `samclip demo street.jpg --names "car,bus,road,sky" --output demo.png`
"""

PHOTO = "coffee.jpg"
CLIP_BOXES = PHOTO_BOXES = ((172.0, 17.0, 410.0, 308.0),)  # the cup
VIDEO = "samclip-demo.mp4"
PHOTO_NAMES = ("cup of coffee", "wooden table", "cat", "rocket")
COMMON_NAMES = (
    *("person", "cat", "dog", "bird", "horse", "car", "bus", "bicycle", "boat", "airplane"),
    *("tree", "flower", "grass", "sky", "water", "road", "building", "furniture", "food", "cup"),
)

Photos = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[IMAGE]",
        show_default="a photo that comes with samclip",
        help="Image files, folders of images, or - for stdin; each image gets a picture.",
    ),
]


Video = Annotated[
    bool,
    typer.Option(
        "--video",
        help="Follow the cup of a clip that comes with samclip, and write samclip-demo.mp4. Needs "
        "samclip\\[video].",
    ),
]


def demo(
    images: Photos = None,
    boxes: options.Boxes = None,
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    output: options.Output = None,
    as_json: options.AsJson = False,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    device: options.Device = None,
    precision: options.Precision = None,
    engine_precision: options.EnginePrecision = None,
    threads: options.Threads = None,
    streams: options.Streams = None,
    video: Video = False,
    recursive: options.Recursive = False,
    wide: options.Wide = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Show everything that one encoder pass answers: classify, segment and semantic in one picture.

    Without --names, names of common things are used; without --box, the largest objects found.
    Draws STEM.demo.png into the current folder unless --output or --json is given.
    """
    with report_errors(debug, verbose):
        given = read_vocabulary(names, labels, vocabulary)
        if video:
            check_video_options(images, boxes, recursive)
            follow_clip(
                Request(
                    images=[str(packaged_clip())],
                    bundle=bundle,
                    backend=backend,
                    device=device,
                    precision=precision,
                    engine_precision=engine_precision,
                    threads=threads,
                    as_json=as_json,
                ),
                given or list(PHOTO_NAMES),
                templates,
                output,
            )
            return
        chosen = given or list(COMMON_NAMES if images else PHOTO_NAMES)
        shown = boxes or (None if images else PHOTO_BOXES)

        def ask(scene: Scene, _: Progress) -> Overview:
            from samclip.cli.overview import look_over

            return look_over(scene, chosen, shown, templates)

        request = Request(
            images=images or [str(packaged_photos() / PHOTO)],
            bundle=bundle,
            backend=backend,
            device=device,
            precision=precision,
            engine_precision=engine_precision,
            threads=threads,
            streams=streams,
            output=output,
            as_json=as_json,
            recursive=recursive,
            wide=wide,
        )
        task = Task(
            name="demo",
            ask=ask,
            record=lambda answer: answer.to_dict(),
            show=lambda answer, _: show_overview(answer),
            sum_up=lambda answer: ", ".join(worth_showing(answer.ranked)),
        )
        answer_images(request, task)


def check_video_options(images: object, boxes: object, recursive: bool) -> None:
    """Raise InputError for options that a clip of samclip's own does not take."""
    if images or boxes or recursive:
        raise InputError(
            "--video shows a clip that comes with samclip, and takes no image, --box or "
            "--recursive. For a video of your own: samclip watch VIDEO --box X1,Y1,X2,Y2."
        )


def follow_clip(
    request: Request, names: Sequence[str | Vocabulary], templates: str | None, output: str | None
) -> None:
    """Follow the cup of the packaged clip; the video goes to `output`, None for the usual place."""
    from samclip.cli.watch import Run, check_output

    wanted = None if request.as_json and output is None else output or VIDEO
    place = None if wanted is None else check_output(wanted)
    with heed_stops(), open_model(request) as model:
        watching = model.watch(request.images[0], names, templates=templates, boxes=CLIP_BOXES)
        with watching:
            Run(model, request.images[0], watching, place, as_json=request.as_json).run()


def worth_showing(named: Iterable[tuple[str, float]]) -> list[str]:
    """Return the names with a share of at least 2 %, and the first, each with its share as text."""
    from samclip.runtime.results.poster import above_least

    return [f"{name} {text}" for name, _, text in above_least(named)]


def show_overview(answer: Overview) -> Table:
    """List each task's answer in one row."""
    from samclip.cli.tables import text_table

    answers = {
        "classify": worth_showing(answer.ranked)[:3],
        "segment": answer.masks.captions(),
        "semantic": worth_showing(answer.shares.items()),
    }
    rows = [(task, in_one_line(", ".join(parts))) for task, parts in answers.items()]
    return text_table(("task", "answer"), rows)
