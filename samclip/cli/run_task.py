"""One task over many images: the bundle is loaded once, then the images are answered in order.

`task_command` makes a command of a function that returns a `Task`. `answer_images` runs a task for
the images of a `Request`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import typer

from samclip.cli import options
from samclip.cli.exits import FAILURE, describe, heed_stops, report, report_errors
from samclip.cli.image_list import ImageList, find_images
from samclip.cli.output_paths import (
    MaskFolder,
    check_name_length,
    make_folder,
    plan_masks,
    plan_pictures,
)
from samclip.cli.save_places import DataSet, SavePlan, plan_save
from samclip.cli.signatures import set_signature
from samclip.cli.tables import print_table
from samclip.cli.terminal import (
    Ticker,
    err,
    in_one_line,
    out,
    say,
    say_note,
    warn_untrained_head,
    write_json,
)
from samclip.errors import ImageError, PromptError
from samclip.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from samclip.runtime.clip_tower import Passes
    from samclip.runtime.formats.annotations import AnnotationWriter
    from samclip.runtime.model import Model
    from samclip.runtime.scene import Scene

SERIES_STREAMS = 2  # one image is read, and its masks drawn, while another is encoded


class Result(Protocol):
    """What the answers of all tasks have in common."""

    @property
    def trained_head(self) -> bool | None:
        """Whether the names mean something; None when no names were asked for."""
        ...

    def save(self, path: Path, **options: Any) -> Path:
        """Write the answer's picture; `options` are those of its `draw`."""
        ...


Answer = TypeVar("Answer", bound=Result)


@dataclass(frozen=True)
class MaskFiles(Generic[Answer]):
    """The folder of --masks, and the function that writes an answer's files into it.

    `write` takes the answer, the folder and a stem, and returns the paths. The files are called
    `STEM.000.png` and so on if `numbered`, else `STEM.png`.
    """

    folder: str
    write: Callable[[Answer, Path, str], list[Path]]
    numbered: bool = True


@dataclass(frozen=True)
class Task(Generic[Answer]):
    """A question to a scene, and its answer as a JSON record and as text for people.

    `ask`: also gets where its steps are shown. `show`: a table of one answer, with all columns or
    those that fit; `sum_up`: the answer in one line of a series. `drawing`: options of the answer's
    `draw`. `draws`: whether a picture is made without --output. `files`: the masks to write, None
    for none. `data_set`: the data set to write, None for none. `has_steps`: whether `ask` takes
    long enough to show its steps.
    """

    name: str
    ask: Callable[[Scene, Progress], Answer]
    record: Callable[[Answer], dict[str, Any]]
    show: Callable[[Answer, bool], RenderableType]
    sum_up: Callable[[Answer], str]
    drawing: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = True
    files: MaskFiles[Answer] | None = None
    data_set: DataSet | None = None
    has_steps: bool = False


@dataclass(frozen=True)
class Request:
    """Values of the options that all tasks share; None means the default."""

    images: list[str]
    bundle: str | None = None
    backend: str = "auto"
    device: str | None = None
    precision: str | None = None
    engine_precision: str | None = None
    threads: int | None = None
    streams: int | None = None
    max_pixels: int | None = None
    timeout: float | None = None
    output: str | None = None
    as_json: bool = False
    recursive: bool = False
    wide: bool = False


def task_command(make_task: Callable[..., Task[Any]]) -> Callable[..., None]:
    """Make a command of `make_task`, whose parameters are the options that only its task has.

    The command has the argument IMAGE before them, and the other shared options after them. Its
    name and help are those of `make_task`.
    """

    def command(
        images: options.Images,
        recursive: options.Recursive = False,
        output: options.Output = None,
        as_json: options.AsJson = False,
        wide: options.Wide = False,
        bundle: options.Bundle = None,
        backend: options.Backend = "auto",
        device: options.Device = None,
        precision: options.Precision = None,
        engine_precision: options.EnginePrecision = None,
        threads: options.Threads = None,
        streams: options.Streams = None,
        max_pixels: options.MaxPixels = None,
        timeout: options.Timeout = None,
        verbose: options.Verbose = 0,
        debug: options.Debug = False,
        **task_options: Any,
    ) -> None:
        with report_errors(debug, verbose):
            task = make_task(**task_options)
            request = Request(
                images=images,
                bundle=bundle,
                backend=backend,
                device=device,
                precision=precision,
                engine_precision=engine_precision,
                threads=threads,
                streams=streams,
                max_pixels=max_pixels,
                timeout=timeout,
                output=output,
                as_json=as_json,
                recursive=recursive,
                wide=wide,
            )
            answer_images(request, task)

    first, *others, _ = inspect.signature(command, eval_str=True).parameters.values()
    own = inspect.signature(make_task, eval_str=True).parameters.values()
    set_signature(command, make_task, (first, *own, *others))
    return command


def answer_images(request: Request, task: Task[Answer]) -> None:
    """Answer `task` for every image of `request`.

    In a series, an image that cannot be read or that the prompts do not fit is reported, and the
    others are answered; the command then ends with exit code 1. Raises typer.Exit and
    SamclipError.
    """
    images = find_images(request.images, recursive=request.recursive)
    for note in images.notes:
        say_note(note)
    if request.streams is None and len(images.paths) > 1:
        request = replace(request, streams=SERIES_STREAMS)
    places = _plan(request, task, images)
    opened = nullcontext() if places.data_set is None else places.data_set.data_set.open()
    with heed_stops(), open_model(request) as model, opened as writer:
        failed = _Series(request, task, images, places, model, writer).run()
    if writer is not None and not request.as_json:
        saved = f"{writer.count:,} image{'' if writer.count == 1 else 's'}"
        say(out, f"{writer.kind} data set in {in_one_line(str(writer.folder))}: {saved}")
    if failed:
        say(err, f"{failed} of {len(images.paths)} images failed", style="red")
        raise typer.Exit(FAILURE)


@dataclass(frozen=True)
class _Places:
    """Where the pictures, the masks and the data set go; None where none are wanted."""

    pictures: tuple[Path, ...] | None
    masks: MaskFolder | None
    data_set: SavePlan | None


def _plan(request: Request, task: Task[Answer], images: ImageList) -> _Places:
    asked_otherwise = request.as_json or task.files is not None or task.data_set is not None
    drawn = task.draws and not asked_otherwise
    wanted = request.output is not None or drawn
    pictures = plan_pictures(images, request.output, task.name) if wanted else None
    masks = None
    if task.files is not None:
        masks = plan_masks(images, task.files.folder, task.files.numbered)
    data_set = None if task.data_set is None else plan_save(images, task.data_set)
    return _Places(pictures, masks, data_set)


@dataclass(frozen=True)
class _Answered(Generic[Answer]):
    """An answer, the files that were written of it, and the encoders' passes that it took.

    `passes` is None for a bundle with one encoder, which answers in one.
    """

    answer: Answer
    passes: Passes | None
    picture: Path | None
    masks: tuple[Path, ...] | None


@contextmanager
def open_model(request: Request) -> Iterator[Model]:
    """Load the bundle that `request` asks for; the model is closed at the end of the block."""
    import samclip  # brings in numpy and the runtime

    status = err.status("loading the bundle") if err.is_terminal else nullcontext()
    with status:
        model = samclip.load(
            request.bundle,
            backend=request.backend,
            device=request.device,
            precision=request.precision,
            engine_precision=request.engine_precision,
            threads=request.threads,
            streams=request.streams or 1,
            max_pixels=request.max_pixels,
            timeout=request.timeout,
        )
    with model:
        yield model


class _Series(Generic[Answer]):
    """The images of one command, on one model."""

    def __init__(
        self,
        request: Request,
        task: Task[Answer],
        images: ImageList,
        places: _Places,
        model: Model,
        writer: AnnotationWriter | None,
    ) -> None:
        self._request = request
        self._task = task
        self._images = images
        self._places = places
        self._model = model
        self._writer = writer
        self._warned = False
        self._written: Counter[str] = Counter()  # pictures and masks of a series, by folder

    def run(self) -> int:
        """Answer all images; return how many failed."""
        paths = self._images.paths
        with Ticker(len(paths)) as ticker, closing(self._answers()) as answers:
            try:
                indices = range(len(paths))
                failed = sum(not self._print_next(index, answers, ticker) for index in indices)
            except KeyboardInterrupt:  # images in other threads end with their graph's run
                self._model.close()
                raise
        for what, count in self._written.items():
            say(out, f"{what}: {count:,} file{'' if count == 1 else 's'}")
        return failed

    def _print_next(
        self,
        index: int,
        answers: Generator[Callable[[], _Answered[Answer]], None, None],
        ticker: Ticker,
    ) -> bool:
        """Print the next answer, that of image `index`; False where an error took its place."""
        path = self._images.paths[index]
        try:
            status = ticker.working(f"{self._task.name} {path.name}")
            with nullcontext() if self._shows_steps else status:
                answered = next(answers)()
                if self._writer is not None and self._places.data_set is not None:
                    self._places.data_set.add(self._writer, index, answered.answer)
        except (ImageError, PromptError) as error:
            if not self._images.many:
                raise
            with ticker.paused():
                self._report(path, error)
            return False
        with ticker.paused():
            self._print(path, answered)
        return True

    def _answers(self) -> Generator[Callable[[], _Answered[Answer]], None, None]:
        """Yield for each image, in order, a function that returns its answer or raises."""
        places = range(len(self._images.paths))
        streams = self._request.streams or 1
        if streams == 1:  # in this thread, where an interrupt takes effect at once
            yield from (partial(self._answer, index) for index in places)
            return
        from samclip.runtime.series import map_in_order

        for _, future in map_in_order(self._answer, places, streams, self._model.close):
            yield future.result

    def _answer(self, index: int) -> _Answered[Answer]:
        """Answer one image and save its picture and its masks."""
        image = self._images.paths[index]
        picture = None if self._places.pictures is None else self._places.pictures[index]
        if picture is not None:
            check_name_length(picture, image)
        with self._model.encode(self._images.source(index)) as scene:
            answer = self._task.ask(scene, self._choose_progress())
            passes = None if self._model.manifest.clip_tower is None else scene.passes
        if picture is not None:
            make_folder(picture.parent)
            answer.save(picture, **self._task.drawing)
        masks = None
        if self._places.masks is not None and self._task.files is not None:
            masks = self._places.masks.save(index, image, partial(self._task.files.write, answer))
        return _Answered(answer, passes, picture, masks)

    @property
    def _shows_steps(self) -> bool:
        """Whether the steps within an image are shown; in a series a bar counts images."""
        return self._task.has_steps and len(self._images.paths) == 1

    def _choose_progress(self) -> Progress:
        if not self._shows_steps:
            return SILENT
        from samclip.cli.progress import ConsoleProgress  # brings in rich's bars

        return ConsoleProgress(err)

    def _print(self, path: Path, answered: _Answered[Answer]) -> None:
        answer, picture, masks = answered.answer, answered.picture, answered.masks
        if answer.trained_head is False and not self._warned:
            warn_untrained_head()
            self._warned = True
        if self._request.as_json:
            record = self._first_fields(path) | self._task.record(answer)
            if answer.trained_head is not None:
                record["trained_head"] = answer.trained_head
            if answered.passes is not None:
                record["passes"] = asdict(answered.passes)
            record["picture"] = None if picture is None else str(picture)
            if masks is not None:
                record["mask_files"] = [str(file) for file in masks]
            if self._writer is not None:
                record["data_set"] = str(self._writer.folder)
            write_json(record)
            return
        folder = None if self._places.masks is None else self._places.masks.folder
        if self._images.many:
            self._print_row(path, answer)
            if picture is not None:
                self._written[f"pictures in {in_one_line(str(picture.parent))}"] += 1
            if masks is not None:
                self._written[f"masks in {in_one_line(str(folder))}"] += len(masks)
            return
        say(out, in_one_line(str(path)), style="bold")
        print_table(self._task.show(answer, self._request.wide), self._request.wide)
        if answered.passes is not None:
            say(out, f"passes: {answered.passes}")
        if picture is not None:
            say(out, f"picture: {in_one_line(str(picture))}")
        if masks is not None:
            files = "1 file" if len(masks) == 1 else f"{len(masks)} files"
            say(out, f"masks: {files} in {in_one_line(str(folder))}")

    def _print_row(self, path: Path, answer: Answer) -> None:
        """Print the row of an image in a series: its name, and its answer in one line."""
        names = [in_one_line(str(each)) for each in self._images.paths]
        longest = max(map(len, names))
        width = longest if self._request.wide else min(longest, out.width // 2)
        name = in_one_line(str(path))
        if len(name) > width:  # its end tells files apart
            name = "…" + name[1 - width :]
        row = f"{name:<{width}}  {in_one_line(self._task.sum_up(answer))}"
        if not self._request.wide and len(row) > out.width:
            row = row[: out.width - 1] + "…"
        say(out, row)

    def _report(self, path: Path, error: Exception) -> None:
        report(error, about=str(path))
        if self._request.as_json:
            fault = {"type": type(error).__name__, "message": describe(error)}
            write_json(self._first_fields(path) | {"error": fault})

    def _first_fields(self, path: Path) -> dict[str, Any]:
        """Return the first fields of a record, those of answers and errors alike."""
        head = self._model.manifest.head
        return {
            "task": self._task.name,
            "image": str(path),
            "bundle": self._model.manifest.name,
            "trained_head": None if head is None else head.trained,
        }
