"""One photo through a model: from its file to three answers, then tasks one by one.

Everything runs through the public interface, so that what is timed is what users run. A step's
time is shared out among the graphs that ran within it, the copies of their outputs to the host,
and the rest, which is the step's own work on the host.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.timed import COPIES, Step
from samclip.benchmarks.measurements import Kind
from samclip.errors import UntrainedHeadWarning
from samclip.runtime.model import Model
from samclip.runtime.pixels.image import load_image
from samclip.runtime.scene import Scene
from samclip.runtime.text.vocabulary import Vocabulary

NAMES = (
    *("person", "dog", "cat", "car", "bicycle", "tree", "grass", "sky", "water", "road"),
    *("building", "wall", "floor", "table", "chair", "cup", "food", "book", "flower", "rocket"),
)
MANY = 16  # prompts of one call
ALL_STEPS = "photo file to three answers"
NO_MAP = "photo file to three answers, a name for a map"  # of bundles that name boxes
THREE_TASKS = "encoder and three tasks"
GRAPH_STAGES = {
    "encoder": "encoder",
    "token_aggregation": "token aggregation",
    "clip_head": "CLIP head",
    "mask_decoder": "mask decoder",
    "image_keys": "decoder's image side",
    "point_decoder": "point decoder",
    "text_encoder": "text encoder",
    "roi_classifier": "RoI classifier",
    "clip_roi": "CLIP RoI",
    "clip_encoder": "CLIP image tower",
    COPIES: COPIES,
}
CLASSIFY, POINT, COARSE = "classify 20 names", "segment a point", "semantic coarse, 20 names"
NAME = "name a mask, 20 names"
BOX, POINTS = "segment a box", f"segment {MANY} points"
REFINED, EVERYTHING = "semantic refined, 20 names", "everything, 1,024 points"
EMBED = "embed 20 names"
RESTS = {  # names of a step's work on the host
    "decode": "decode",
    "encode": "resize and normalise",
    CLASSIFY: "compare names",
    POINT: "upscale masks",
    COARSE: "upscale semantic map",
    NAME: "fuse names",
    REFINED: "regions and upscaling",
    EVERYTHING: "filters and upscaling",
    EMBED: "tokenise and cache",
}


@dataclass(frozen=True)
class Piece:
    """One sample of one row; fields as in `Timing`."""

    kind: Kind
    name: str
    seconds: float
    items: int = 1
    item: str = "image"
    part_of: str | None = None


@dataclass(frozen=True)
class Workload:
    """Which of the longer tasks are run."""

    many: bool = True
    refined: bool = True
    text: bool = True
    everything: bool = False


class Walk:
    """Takes photos through one model, again and again."""

    def __init__(self, contender: Contender, workload: Workload) -> None:
        self._contender = contender
        self._workload = workload
        self._numbers = itertools.count()
        manifest = contender.model.manifest
        self._names = manifest.head is not None and manifest.text is not None
        self._map = manifest.has_map
        self._text = self._names and manifest.graphs.text_encoder is not None
        self._vocabulary: Vocabulary | None = None

    def prepare(self) -> tuple[Piece, ...]:
        """Embed the names, once for all photos: the first use of the text encoder.

        Raises CapabilityError as `Model.vocabulary`.
        """
        if not self._names:
            return ()
        with without_untrained_warning():
            names = names_for(self._contender.model)
            step = self._time(lambda: self._contender.model.vocabulary(names))
        self._vocabulary = step.answer
        return tuple(_divided(EMBED, step, len(NAMES), "name"))

    def run(self, photo: Path) -> tuple[Piece, ...]:
        """Time one photo: the way to three answers, its stages, and the tasks."""
        with without_untrained_warning():
            steps = self._answer(photo)
            scene = steps["encode"].answer
            with scene:
                return (*_pipeline(steps), *_tasks(steps), *self._more(scene))

    def answer(self, photo: Path) -> None:
        """Go from the file of a photo to three answers, untimed."""
        with without_untrained_warning():
            self._answer(photo)["encode"].answer.close()

    def _time(self, work: Callable[[], Any]) -> Step[Any]:
        return self._contender.clock.time(work)

    def _answer(self, photo: Path) -> dict[str, Step[Any]]:
        """Go from the file to three answers; the CLIP head runs within the first that names.

        Where there is none the third is the name of a mask in place of a map.
        """
        model, names = self._contender.model, self._vocabulary
        steps = {"decode": self._time(lambda: load_image(photo))}
        pixels = steps["decode"].answer
        steps["encode"] = self._time(lambda: model.encode(pixels))
        scene: Scene = steps["encode"].answer
        if names is not None:
            steps[CLASSIFY] = self._time(lambda: scene.classify(names))
        steps[POINT] = self._time(lambda: scene.segment(points=[_spread(scene, 1)[0]]))
        if names is not None and self._map:
            steps[COARSE] = self._time(lambda: scene.semantic(names))
        elif names is not None:
            mask = steps[POINT].answer
            steps[NAME] = self._time(lambda: scene.name(mask, names))
        return steps

    def _more(self, scene: Scene) -> Iterator[Piece]:
        """Time the tasks that are not on the way to the three answers."""
        names, height, width = self._vocabulary, *scene.size
        box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
        yield _task(BOX, self._time(lambda: scene.segment(boxes=[box])), 1, "prompt")
        if self._workload.many:
            points = [[point] for point in _spread(scene, MANY)]
            yield _task(POINTS, self._time(lambda: scene.segment(points=points)), MANY, "prompt")
        if self._workload.refined and names is not None and self._map:
            step = self._time(lambda: scene.semantic(names, refine=True))
            yield from _divided(REFINED, step, 1, "image")
        if self._workload.everything:
            step = self._time(scene.everything)
            yield from _divided(EVERYTHING, step, 1024, "prompt")
        if self._workload.text and self._text:
            yield from self._embed()

    def _embed(self) -> Iterator[Piece]:
        """Embed names by a template that no cache has seen."""
        template = f"a photo of a {{}}, number {next(self._numbers)}."
        step = self._time(lambda: self._contender.model.vocabulary(NAMES, template))
        yield from _divided(EMBED, step, len(NAMES), "name")


def names_for(model: Model) -> tuple[str, ...]:
    """Return 20 names that a model can embed: at most 20 labels where it has no text encoder.

    Empty for a model that cannot name.
    """
    manifest = model.manifest
    if manifest.head is None or manifest.text is None:
        return ()
    if manifest.graphs.text_encoder is not None or manifest.text.labels is None:
        return NAMES
    labels = msgspec.json.decode(model.bundle.read(manifest.text.labels), type=list[str])
    return tuple(labels[: len(NAMES)])


def way_of(model: Model) -> str:
    """Return the name of a model's way from the file to its answers."""
    manifest = model.manifest
    names_boxes = not manifest.has_map and manifest.head is not None
    return NO_MAP if names_boxes and manifest.text is not None else ALL_STEPS


def _pipeline(steps: dict[str, Step[Any]]) -> Iterator[Piece]:
    """Return the whole way, and its stages, which add up to it."""
    last = list(steps.values())[-1]
    total = last.end - steps["decode"].start
    whole = NO_MAP if NAME in steps else ALL_STEPS
    yield Piece("pipeline", whole, total)
    stages: dict[str, float] = {}
    for name, step in steps.items():
        parts = {GRAPH_STAGES.get(graph, graph): time for graph, time in step.inside.items()}
        rest = {RESTS[name]: step.rest}
        for stage, time in ({**rest, **parts} if name == "encode" else {**parts, **rest}).items():
            stages[stage] = stages.get(stage, 0.0) + time
    stages["other"] = total - sum(stages.values())
    for name, seconds in stages.items():
        yield Piece("stage", name, seconds, part_of=whole)


def _tasks(steps: dict[str, Step[Any]]) -> Iterator[Piece]:
    encoder = steps["encode"].inside.get("encoder", 0.0)
    tasks = [name for name in (CLASSIFY, POINT, COARSE, NAME) if name in steps]
    for name in tasks:
        yield _task(name, steps[name], 1, "prompt" if name == POINT else "image")
    if COARSE in steps:
        seconds = encoder + sum(steps[name].seconds for name in tasks)
        yield Piece("pipeline", THREE_TASKS, seconds)


def _task(name: str, step: Step[Any], items: int, item: str) -> Piece:
    return Piece("task", name, step.seconds, items, item)


def _divided(name: str, step: Step[Any], items: int, item: str) -> Iterator[Piece]:
    """Return a task, and its stages, which add up to it."""
    yield _task(name, step, items, item)
    for graph, seconds in step.inside.items():
        yield Piece("stage", GRAPH_STAGES.get(graph, graph), seconds, items, item, part_of=name)
    yield Piece("stage", RESTS[name], step.rest, items, item, part_of=name)


def _spread(scene: Scene, count: int) -> list[tuple[float, float]]:
    """Return `count` points, a square number, spread evenly over the image."""
    height, width = scene.size
    side = round(count**0.5)
    places = [(place + 0.5) / side for place in range(side)]
    return [(x * width, y * height) for y in places for x in places]


@contextmanager
def without_untrained_warning() -> Iterator[None]:
    """Silence the warning of untrained heads, which would come with each sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)
        yield
