"""`samclip watch`: the frames of a camera, a video or an address, answered one after the other."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from samclip.cli import options
from samclip.cli import watch_options as stream
from samclip.cli.arguments import gather_prompts, read_vocabulary
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.output_paths import check_file, check_place
from samclip.cli.run_task import Request, open_model
from samclip.cli.save_places import DataSet, read_save
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

- A data set of every tenth frame, with tracks:
  `samclip watch street.mp4 --names "car,bus" --every 10 --save labelme --save-to street-frames`

- The first camera, the newest frame each time, for another program:
  `samclip watch 0 --names "person,cup" --json`

- At most 100 ms a frame, by smaller encoder inputs where they are needed:
  `samclip watch 0 --names "person" --budget-ms 100 --smaller tiny-512 --smaller tiny-256`

- A camera of the network: `samclip watch rtsp://USER:PASSWORD@host/stream --show`
"""

WINDOW = "samclip watch"
FRAME_NAME = "{:06d}.jpg"  # of a frame's number, in a data set
QUIT_KEYS = (ord("q"), 27)  # q and Escape


def watch(
    source: stream.SourceArgument,
    names: options.Names = None,
    labels: options.Labels = None,
    vocabulary: options.VocabularyFile = None,
    templates: options.Templates = None,
    points: options.Points = None,
    point_labels: options.PointLabels = None,
    boxes: options.Boxes = None,
    separate: options.Separate = False,
    output: stream.Video = None,
    show: stream.Show = False,
    save: options.Save = None,
    save_to: options.SaveTo = None,
    as_json: options.AsJson = False,
    every: stream.Every = 1,
    max_fps: stream.MaxFps = None,
    latest: stream.Latest = None,
    limit: stream.Limit = None,
    skip_still: stream.SkipStill = None,
    budget_ms: stream.BudgetMs = None,
    smaller: stream.Smaller = None,
    points_per_side: stream.PointsPerSide = None,
    adaptive: stream.Adaptive = False,
    wait: stream.Wait = 10.0,
    reconnect: stream.Reconnect = 60.0,
    bundle: options.Bundle = None,
    backend: options.Backend = "auto",
    device: options.Device = None,
    precision: options.Precision = None,
    engine_precision: options.EnginePrecision = None,
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
        if adaptive:
            given["adaptive"] = True
        place = None if output is None else check_output(output)
        data_set = read_save(save, save_to)
        if data_set is not None:
            data_set.check()
        request = Request(
            images=[source],
            bundle=bundle,
            backend=backend,
            device=device,
            precision=precision,
            engine_precision=engine_precision,
            threads=threads,
        )
        with heed_stops(), open_model(request) as model, ExitStack() as exits:
            lesser = [
                exits.enter_context(open_model(replace(request, bundle=one)))
                for one in smaller or ()
            ]
            watching = model.watch(
                source,
                read_vocabulary(names, labels, vocabulary),
                templates=templates,
                every_n=every,
                max_fps=max_fps,
                skip_still=skip_still,
                budget_ms=budget_ms,
                smaller=lesser,
                **given,
            )
            with watching:
                Run(model, source, watching, place, show, as_json, limit, data_set).run()


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
    return check_file(place, output, "--output")


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
        data_set: DataSet | None = None,
    ) -> None:
        from samclip.video.containers import without_password

        self._model = model
        self._source = without_password(source)
        self._watching = watching
        self._output = output
        self._show = show
        self._as_json = as_json
        self._limit = limit
        self._data_set = data_set
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
            saved = None if self._data_set is None else exits.enter_context(self._data_set.open())
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
                if saved is not None:
                    name = FRAME_NAME.format(result.number)
                    saved.add(name, result.masks, tracks=result.tracks)
                self._print(result)  # once its frame is in the files
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
        if self._data_set is not None:
            say(out, f"{self._data_set.kind} data set: {in_one_line(str(self._data_set.folder))}")


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
