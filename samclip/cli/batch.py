"""`samclip batch`: answers for a folder, an archive or a table of images, as parquet files."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from samclip.cli import options
from samclip.cli.arguments import choose_floor, gather_prompts, read_vocabulary
from samclip.cli.bundle import PublicKey
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.given_paths import parse_path
from samclip.cli.tasks import (
    FLOOR,
    Adaptive,
    Background,
    Denoise,
    IouThreshold,
    MinArea,
    PointsPerSide,
    Refine,
    StabilityThreshold,
)
from samclip.cli.terminal import err, in_one_line, out, say, say_note, warn_untrained_head

if TYPE_CHECKING:
    from samclip.batch.job import Job, Runner, Summary

EXAMPLES = """
**Examples:**

- Names and embeddings: `samclip batch photos/ --names "a street,a kitchen" --to rows/`

- Named masks of everything, by two workers of Ray:
  `samclip batch photos/ --task everything --names "car,bus" --to rows/ --workers 2`

- Shards in WebDataset's form: `samclip batch 'shards/*.tar' --labels labels.txt --to rows/`

- Names that `samclip teach` has learned:
  `samclip batch photos/ --vocabulary plant.safetensors --names "wall" --to rows/`

- Bytes in a table:
  `samclip batch images.parquet --column jpg --key id --names "cat,dog" --to rows/`
"""
STOP_SECONDS = 10.0  # from Ctrl-C to the end: rows are written, and graphs come to their end
_INPUT = "Input"
_ROWS = "Rows"
_WORK = "Who works"

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="Folders of images, tars, or parquet files; such files, lists of paths (.txt), "
        "images, and patterns such as 'shards/*.tar'.",
    ),
]
To = Annotated[
    Path,
    typer.Option(
        "--to",
        parser=parse_path,
        metavar="FOLDER",
        show_default=False,
        help="The folder of the rows. A job that was stopped goes on there.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-t",
        metavar="TASK",
        show_default="classify and embed with names, else embed",
        help="classify, embed, segment, everything or semantic; may be repeated: one encoder pass "
        "answers all.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        rich_help_panel=_INPUT,
        show_default="a usual name, such as image or path",
        help="The column of parquet files with the images' bytes or paths.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="NAME",
        rich_help_panel=_INPUT,
        show_default="the file and the row's number",
        help="The column of parquet files that tells images apart.",
    ),
]
Top = Annotated[
    int,
    typer.Option(
        "--top",
        "-k",
        min=1,
        metavar="K",
        rich_help_panel=_ROWS,
        help="Of classify, keep the K best names.",
    ),
]
RowsPerFile = Annotated[
    int,
    typer.Option(
        "--rows-per-file",
        min=1,
        metavar="N",
        rich_help_panel=_ROWS,
        help="Write a file after N images; after 64 MiB or a minute in any case.",
    ),
]
RetryErrors = Annotated[
    bool,
    typer.Option(
        "--retry-errors",
        rich_help_panel=_ROWS,
        help="Answer images again whose row has an error.",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        "-w",
        min=1,
        metavar="N",
        rich_help_panel=_WORK,
        help="Work on N images at once, each with its share of the cores.",
    ),
]
RunnerName = Annotated[
    Literal["auto", "ray", "process"],
    typer.Option(
        "--runner",
        metavar="auto|ray|process",
        rich_help_panel=_WORK,
        help="Who the workers are: processes of Ray, each with a model, or threads of this process "
        "that share one. auto: Ray where it is installed and there are several workers or "
        "$RAY_ADDRESS.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
        rich_help_panel=_WORK,
        show_default="Ray is started here",
        help="The cluster of Ray: auto, or HOST:PORT of its head.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        min=1,
        metavar="N",
        rich_help_panel=_WORK,
        help="Images that a worker of Ray is given at once, and loses when it is killed.",
    ),
]


def batch(
    sources: Sources,
    to: To,
    task: Tasks = None,
    recursive: options.Recursive = False,
    column: Column = None,
    key: Key = None,
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    name_by: options.NameBy = None,
    points: options.Points = None,
    point_labels: options.PointLabels = None,
    boxes: options.Boxes = None,
    separate: options.Separate = False,
    points_per_side: PointsPerSide = 32,
    adaptive: Adaptive = False,
    pred_iou_thresh: IouThreshold = 0.88,
    stability_score_thresh: StabilityThreshold = 0.95,
    min_mask_region_area: MinArea = 0,
    refine: Refine = False,
    background: Background = FLOOR,
    denoise: Denoise = 0.0,
    top: Top = 5,
    rows_per_file: RowsPerFile = 1000,
    retry_errors: RetryErrors = False,
    workers: Workers = 1,
    runner: RunnerName = "auto",
    ray_address: Address = None,
    batch_size: BatchSize = 16,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    device: options.Device = None,
    precision: options.Precision = None,
    engine_precision: options.EnginePrecision = None,
    threads: options.Threads = None,
    max_pixels: options.MaxPixels = None,
    timeout: options.Timeout = None,
    public_key: PublicKey = None,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Answer every image of a folder, of tars or of a table, and write rows as parquet files.

    A row has an image's key, size and digest, names with probabilities, masks as COCO run-length
    encoding, and CLIP's embedding, as --task asks. An image that cannot be read has its error in
    the column error, and ends nothing. Files appear whole: run the same command again after a stop
    or a kill, and it goes on with what is missing, so that each image is in one row.
    """
    with report_errors(debug, verbose), heed_stops(STOP_SECONDS):
        from samclip.batch.job import Job, run_job
        from samclip.batch.questions import as_question
        from samclip.batch.sources import list_items
        from samclip.cli.progress import ConsoleProgress

        given = read_vocabulary(names, labels, vocabulary)
        tasks = [part.strip() for text in task or () for part in text.split(",")]
        task_options: dict[str, dict[str, Any]] = {}
        if "segment" in tasks:
            prompts = gather_prompts(points, point_labels, boxes, separate)
            task_options["segment"] = {
                "points": prompts.points,
                "labels": prompts.labels,
                "boxes": prompts.boxes,
                "name_by": name_by,
            }
        if "everything" in tasks:
            task_options["everything"] = {
                "points_per_side": points_per_side,
                **({"adaptive": True} if adaptive else {}),
                "pred_iou_thresh": pred_iou_thresh,
                "stability_score_thresh": stability_score_thresh,
                "min_mask_region_area": min_mask_region_area,
                "name_by": name_by,
            }
        if "semantic" in tasks:
            task_options["semantic"] = {
                "refine": refine,
                "background": choose_floor(background, given or ()),
                "denoise": denoise or None,
            }
        question = as_question(tasks, given, templates, top, task_options)
        load_options = {
            "name_or_path": bundle,
            "backend": backend,
            "device": device,
            "precision": precision,
            "engine_precision": engine_precision,
            "threads": threads,
            "max_pixels": max_pixels,
            "timeout": timeout,
            "public_key": None if public_key is None else str(public_key.absolute()),
        }
        job = Job(question, load_options)
        opened, identity = job.identify()
        head = opened.manifest.head
        if given is not None and head is not None and not head.trained:
            warn_untrained_head()
        listing = list_items(sources, recursive=recursive, column=column, key_column=key)
        for note in listing.notes:
            say_note(note)
        chosen, job = choose_runner(runner, workers, ray_address, batch_size, job)
        with redirect_stdout(sys.stderr):  # Ray prints there that a worker died
            summary = run_job(
                job,
                listing,
                to,
                chosen,
                identity=identity,
                rows_per_file=rows_per_file,
                retry_errors=retry_errors,
                progress=ConsoleProgress(err),
            )
        show_summary(summary)


def choose_runner(
    wanted: str, workers: int, address: str | None, batch_size: int, job: Job
) -> tuple[Runner, Job]:
    """Return who works, and the job with the streams that this takes."""
    from samclip.batch.job import InProcess, with_options
    from samclip.batch.packages import has_ray
    from samclip.batch.ray_pool import RayPool

    if wanted == "auto":
        wanted = "ray" if has_ray() and (workers > 1 or address) else "process"
    if wanted == "process":
        return InProcess(), with_options(job, streams=workers)
    given = job.load_options["name_or_path"]
    if given is not None and os.path.lexists(given):  # a worker's folder may be another one
        job = with_options(job, name_or_path=str(Path(given).absolute()))
    return RayPool(workers, address, batch_size), job


def show_summary(summary: Summary) -> None:
    """Print what a run did on stdout."""
    done = summary.images - summary.done_before
    parts = [f"{summary.images:,} image{'' if summary.images == 1 else 's'}"]
    if summary.done_before:
        parts.append(f"{summary.done_before:,} of them done before")
    if done:
        pace = f", {done / summary.seconds:.1f} images/s" if summary.seconds > 0 else ""
        parts.append(f"{summary.files:,} new file{'' if summary.files == 1 else 's'}{pace}")
    if summary.errors:
        parts.append(f"{summary.errors:,} with an error, see the column error")
    say(out, f"{in_one_line(str(summary.folder))}: {'; '.join(parts)}")
