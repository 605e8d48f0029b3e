"""`samclip watch`: the frames of a camera, a video or an address, answered one after the other."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from samclip.cli import options
from samclip.cli.arguments import gather_prompts, read_names
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.output_paths import check_place, check_writable
from samclip.cli.run_task import Request, open_model
from samclip.cli.terminal import err, in_one_line, out, say, warn_untrained_head, write_json
from samclip.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from samclip.runtime.model import Model
    from samclip.video.answers import FrameResult
    from samclip.video.watch import Watch

EXAMPLES = """
**Examples:**

- A video, with a picture of every frame: `samclip watch street.mp4 --names "car,bus" -o seen.mp4`

- One object, followed from its box in the first frame:
  `samclip watch street.mp4 --box 300,80,420,200 --output followed.mp4`

- The first camera, the newest frame each time, for another program:
  `samclip watch 0 --names "person,cup" --json`

- A camera of the network: `samclip watch rtsp://USER:PASSWORD@host/stream --show`
"""

WINDOW = "samclip watch"
QUIT_KEYS = (ord("q"), 27)  # q and Escape
_STREAM = "Stream"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A video file, a camera's number, an address (RTSP, HTTP), a pipeline of GStreamer, a "
        "folder of images, or - for JPEG images on stdin.",
    ),
]
Video = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        help="Write a video of the answers: .mp4, .mkv, .mov or .avi.",
    ),
]
Show = Annotated[
    bool, typer.Option("--show", help="Show the answers in a window; q or Escape ends it.")
]
Every = Annotated[
    int,
    typer.Option(
        "--every", min=1, metavar="N", rich_help_panel=_STREAM, help="Answer every N-th frame."
    ),
]
MaxFps = Annotated[
    float | None,
    typer.Option(
        "--max-fps",
        min=0.001,
        metavar="N",
        rich_help_panel=_STREAM,
        show_default="no limit",
        help="Answer at most N frames a second of the stream.",
    ),
]
Latest = Annotated[
    bool | None,
    typer.Option(
        "--latest/--every-frame",
        rich_help_panel=_STREAM,
        show_default="--latest for live sources",
        help="Drop frames that come too fast, or answer each one.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        metavar="N",
        rich_help_panel=_STREAM,
        show_default="no limit",
        help="End after N answers.",
    ),
]
SkipStill = Annotated[
    float | None,
    typer.Option(
        "--skip-still",
        min=0,
        metavar="LEVELS",
        rich_help_panel=_STREAM,
        show_default="off",
        help="Reuse the masks where nothing differs by so many grey levels (0 to 255); try 4.",
    ),
]
BudgetMs = Annotated[
    float | None,
    typer.Option(
        "--budget-ms",
        min=1,
        metavar="MS",
        rich_help_panel=_STREAM,
        show_default="off",
        help="Try fewer points where a frame takes longer than this.",
    ),
]
PointsPerSide = Annotated[
    int | None,
    typer.Option(
        "--points-per-side",
        min=1,
        metavar="N",
        rich_help_panel=_STREAM,
        show_default="16",
        help="Without --box and --point: try a grid of N by N points in each frame.",
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0.1,
        metavar="SECONDS",
        rich_help_panel=_STREAM,
        help="The time that opening the source, and each of its frames, may take.",
    ),
]
Reconnect = Annotated[
    float,
    typer.Option(
        "--reconnect",
        min=0,
        metavar="SECONDS",
        rich_help_panel=_STREAM,
        help="Try so long to open a live source again that was lost.",
    ),
]


def watch(
    source: SourceArgument,
    names: options.Names = None,
    labels: options.Labels = None,
    templates: options.Templates = None,
    points: options.Points = None,
    point_labels: options.PointLabels = None,
    boxes: options.Boxes = None,
    separate: options.Separate = False,
    output: Video = None,
    show: Show = False,
    as_json: options.AsJson = False,
    every: Every = 1,
    max_fps: MaxFps = None,
    latest: Latest = None,
    limit: Limit = None,
    skip_still: SkipStill = None,
    budget_ms: BudgetMs = None,
    points_per_side: PointsPerSide = None,
    wait: Wait = 10.0,
    reconnect: Reconnect = 60.0,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    device: options.Device = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Answer the frames of a stream: masks, names, and tracks that stay with their objects.

    With --box or --point the objects of the first frame are followed; else each frame is searched.
    Prints a line for each frame, or with --json a document. Ctrl-C ends it; the video that was
    written until then is whole.
    """
    with report_errors(debug, verbose):
        given: dict[str, Any] = {"policy": _policy(latest), "timeout": wait, "reconnect": reconnect}
        if points or boxes:
            prompts = gather_prompts(points, point_labels, boxes, separate)
            given |= {"points": prompts.points, "labels": prompts.labels, "boxes": prompts.boxes}
        if points_per_side is not None:
            given["points_per_side"] = points_per_side
        place = None if output is None else check_output(output)
        request = Request(
            images=[source],
            bundle=bundle,
            backend=backend,
            device=device,
            precision=precision,
            threads=threads,
        )
        with heed_stops(), open_model(request) as model:
            watching = model.watch(
                source,
                read_names(names, labels),
                templates=templates,
                every_n=every,
                max_fps=max_fps,
                skip_still=skip_still,
                budget_ms=budget_ms,
                **given,
            )
            with watching:
                Run(model, source, watching, place, show, as_json, limit).run()


def _policy(latest: bool | None) -> Literal["latest", "every"] | None:
    return None if latest is None else "latest" if latest else "every"


def check_output(output: str) -> Path:
    """Return the file of --output; raises InputError before a model is loaded."""
    from samclip.video.writer import FORMATS

    place = check_place(output, "--output")
    if place.suffix.lower() not in FORMATS:
        raise InputError(
            f"--output {output}: videos are written as {', '.join(FORMATS)}. Choose one of these."
        )
    check_writable([place.parent], [place])
    if not place.parent.is_dir():
        raise InputError(f"--output {output}: there is no folder {place.parent}. Make it first.")
    return place


class Run:
    """One run of the command."""

    def __init__(
        self,
        model: Model,
        source: str,
        watching: Watch,
        output: Path | None,
        show: bool = False,
        as_json: bool = False,
        limit: int | None = None,
    ) -> None:
        from samclip.video.containers import without_password

        self._model = model
        self._source = without_password(source)
        self._watching = watching
        self._output = output
        self._show = show
        self._as_json = as_json
        self._limit = limit
        self._warned = False
        self._answered = 0

    def run(self) -> None:
        """Answer frames until the end, the limit, or a key in the window."""
        from samclip.cli.progress import ConsoleProgress
        from samclip.video.writer import VideoWriter

        stream, began = self._watching.stream, time.perf_counter()
        total = stream.total
        with ExitStack() as exits:
            writer = None
            if self._output is not None:
                writer = exits.enter_context(VideoWriter(self._output, stream.rate))
            stage = None
            if err.is_terminal or self._output is not None:
                stage = exits.enter_context(ConsoleProgress(err).stage("frames", total))
            if self._show:
                exits.callback(_close_window)
            seen = 0
            for result in self._watching:
                closed = False
                if writer is not None or self._show:
                    picture = result.draw()
                    if writer is not None:
                        writer.write(picture, result.time)
                    closed = self._show and _show(picture)
                self._print(result)  # once its frame is in the video
                while stage is not None and seen <= result.number:
                    stage.advance(f"{len(result.masks)} masks")
                    seen += 1
                if closed or self._answered == self._limit:
                    break
        self._sum_up(time.perf_counter() - began)

    def _print(self, result: FrameResult) -> None:
        self._answered += 1
        masks = result.masks
        if masks.trained_head is False and not self._warned:
            warn_untrained_head()
            self._warned = True
        if self._as_json:
            head = self._model.manifest.head
            write_json(
                {
                    "task": "watch",
                    "source": self._source,
                    "bundle": self._model.manifest.name,
                    **result.to_dict(),
                    "trained_head": None if head is None else head.trained,
                }
            )
            return
        names = result.names or ("",) * len(masks)
        found = [
            f"#{track} {name}".strip()
            for track, name in zip(result.tracks.tolist(), names, strict=True)
        ]
        line = f"{result.time:8.2f} s  {result.describe()}: {', '.join(found) or 'nothing'}"
        say(out, in_one_line(line if len(line) <= out.width else line[: out.width - 1] + "…"))

    def _sum_up(self, seconds: float) -> None:
        if self._as_json:
            return
        stream = self._watching.stream
        rate = self._answered / seconds if seconds else 0.0
        counts = {
            "dropped": stream.dropped,
            "skipped": self._watching.skipped,
            "damaged": stream.damaged,
            "reconnects": stream.reconnects,
        }
        more = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
        say(out, f"{self._answered:,} frames answered, {rate:.1f} a second{more}")
        if self._output is not None and self._output.exists():
            say(out, f"video: {in_one_line(str(self._output))}")


def _show(picture: Any) -> bool:
    """Show a picture in the window; whether the user asked for the end."""
    import cv2

    try:
        cv2.imshow(WINDOW, picture[..., ::-1])
        key = cv2.waitKey(1)
    except cv2.error as error:
        raise CapabilityError(
            "--show needs an OpenCV with windows, and a display. Install it: pip uninstall "
            "opencv-python-headless, then pip install opencv-python. Or write --output FILE."
        ) from error
    return key in QUIT_KEYS


def _close_window() -> None:
    import contextlib

    import cv2

    with contextlib.suppress(cv2.error):
        cv2.destroyAllWindows()
