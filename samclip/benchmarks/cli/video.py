"""Command `samclip-bench video`: objects followed through clips with truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samclip.benchmarks.accuracy.followed import PROTOCOL, evaluate_followed, read_clips
from samclip.benchmarks.cli import options
from samclip.benchmarks.cli.harness import benchmark
from samclip.benchmarks.cli.session import Outcome, Session
from samclip.benchmarks.records import Data
from samclip.cli import options as shared
from samclip.cli.given_paths import parse_path

EXAMPLES = """
**Examples:**

- `samclip-bench video path/to/clips`

- `samclip-bench video path/to/clips --bundle my-bundle --every 2 --limit 20 --json video.json`
"""

Clips = Annotated[
    Path,
    typer.Argument(
        parser=parse_path,
        metavar="FOLDER",
        show_default=False,
        help="Clips: CLIP/frames/*.jpg and CLIP/masks/*.png of the same names.",
    ),
]
Every = Annotated[
    int, typer.Option("--every", min=1, metavar="N", help="Take every N-th frame of a clip.")
]
Everything = Annotated[
    int | None,
    typer.Option(
        "--points-per-side",
        min=1,
        metavar="N",
        show_default="not measured",
        help="Find everything in each frame by a grid of N by N points, and count the switches of "
        "track numbers.",
    ),
]


@benchmark("video")
def video(
    session: Session,
    *,
    folder: Clips,
    bundle: shared.Bundle = None,
    every: Every = 1,
    points: Everything = None,
    run: options.ModelOptions,
) -> Outcome:
    """Follow the object of each clip from one box in its first frame, and compare ways to do so.

    --limit takes so many frames of each clip.
    """
    clips = read_clips(folder, every, run.limit)
    there = [frame for clip in read_clips(folder) for frame in clip.frames]
    used = [frame for clip in clips for frame in clip.frames]
    model = session.open(run.variant(bundle), "measured")
    rows = evaluate_followed(model, clips, points, session.progress)
    return Outcome(Data.of(folder, "clips", used, there), PROTOCOL, rows)
