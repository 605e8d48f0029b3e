"""Masks with names from boxes and points: models of one pass against SAM and a second model.

There is one table for each kind of prompt, as Table 1 of Open-Vocabulary SAM (Yuan et al. 2024),
which has IoU and accuracy on base and novel classes, parameters, and FLOPs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.accuracy.instances import interior_point, iou
from samclip.benchmarks.data.coco import CocoObject, CocoPhoto
from samclip.benchmarks.formats import as_fast
from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.roofline.counted import Meter
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.scores import (
    ALL,
    BASE,
    NOVEL,
    PHOTOS,
    Scores,
    compare,
    of_objects,
    of_split,
)
from samclip.benchmarks.statistics import Estimate, median, median_ratio
from samclip.benchmarks.tables import Cell, Column, Table, text_columns
from samclip.errors import InputError
from samclip.progress import SILENT, Progress, track
from samclip.runtime.results.masks import Masks
from samclip.runtime.text.vocabulary import Vocabulary

PromptKind = Literal["box", "point"]
KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
MASK, TOP1, SECONDS = "mIoU", "name top-1", "seconds a photo"  # each after the kind of prompt
UNTRAINED = "UNTRAINED: names mean nothing"
MACS, PARAMETERS, WHOLE = "multiply-accumulates a photo", "vision parameters", "all graphs"
PROTOCOL = (
    "All objects of a photo are asked for at once; the answers are one mask each, with a name.",
    "box: the annotation's box. point: the object's pixel farthest from its outline; of a decoder "
    "that offers three masks for a lone point the one with the highest predicted IoU is taken.",
    "crop-image: SAM's masks; the box around each is cut out and encoded by the second model.",
    "crop-feature: SAM's masks; one more pass, of the second model over the whole photo, whose "
    "features are averaged inside each mask by the rule of the merged model.",
    "Each model embeds the names in its own text space.",
    "novel classes are those of --novel, base classes the others. Only a model that fuses two "
    "classifiers takes the base classes for those it has seen.",
    "seconds: the median over photos of encoding, masks and names together, from decoded pixels "
    "to the answer, for each kind of prompt; names are embedded and models loaded before. The "
    "first photo is answered once before, untimed. Models take turns photo by photo, in "
    "rotating order. Bundles run in their backend, a teacher in torch.",
    "vision parameters and multiply-accumulates are counted from the ONNX graphs that ran, mask "
    "decoder and crops included, text encoders not; the latter averaged over photos. What runs in "
    "torch has no graph, and is not counted.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


def as_kinds(given: Sequence[str]) -> tuple[PromptKind, ...]:
    """Check kinds of prompts, each taken once; none means boxes. Raises InputError."""
    for kind in given:
        if kind not in KINDS:
            raise InputError(f"{kind!r:.40} is not a kind of prompt. Known are {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in given) or KINDS[:1]


class EncodedPhoto(Protocol):
    """The part of `samclip.Scene` that the baselines' scenes have too."""

    def segment(self, *, points: Any = None, boxes: Any = None, names: Vocabulary) -> Masks:
        """Answer boxes or points with masks that carry names."""
        ...

    def close(self) -> None:
        """Free what was encoded."""
        ...


class Encoder(Protocol):
    """A maker of scenes from photos: `samclip.Model`, or a baseline."""

    def encode(self, image: Any) -> EncodedPhoto:
        """Encode a photo, HWC uint8 RGB."""
        ...


@dataclass(frozen=True)
class MaskNamer:
    """A model, and the data set's categories in its text space, in the data set's order.

    `meter`: counts its graphs; None for what runs in torch.
    """

    model: Encoder
    vocabulary: Vocabulary
    meter: Meter | None = None


@dataclass(frozen=True)
class PromptTask:
    """The kinds of `prompts`, and the parts of the data that figures are given for.

    `names`: the data set's categories. `apart`: a category without which names are counted too,
    if the data has it. `novel`: indices of the novel categories, None without a split.
    """

    names: Sequence[str]
    prompts: Sequence[PromptKind] = ("box",)
    apart: str | None = "person"
    novel: Collection[int] | None = None


@dataclass
class _Tally:
    """Results of all contenders so far; seconds by contender and kind of prompt."""

    fits: Scores = field(default_factory=Scores)
    hits: Scores = field(default_factory=Scores)
    seconds: dict[tuple[str, PromptKind], list[float]] = field(default_factory=dict)


def evaluate_baselines(
    contenders: Mapping[str, MaskNamer],
    photos: Sequence[CocoPhoto],
    task: PromptTask,
    progress: Progress = SILENT,
) -> list[Row]:
    """Measure masks, names, seconds and work of all `contenders`; divide the first by each other.

    Raises ImageError, InputError, EngineRunError, CountError, CapabilityError.
    """
    tally, objects = _Tally(), [found for photo in photos for found in photo.objects]
    for number, photo in enumerate(track(progress, photos, "baselines")):
        image = photo.pixels()
        if number == 0:
            for contender in contenders.values():
                _answer(contender, image, photo.objects, task.prompts[0])
        tally.fits.photos += [number] * len(photo.objects)
        for name in _turns(tuple(contenders), number):
            for kind in task.prompts:
                _measure(tally, name, contenders[name], image, photo.objects, kind)
    tally.hits.photos = tally.fits.photos
    split = of_split(objects, task.novel)
    named = {**of_objects(objects, task.names, task.apart), **split}
    return [
        *compare(tally.fits, {**of_objects(objects), **split}),
        *compare(tally.hits, named),
        *_speed(tally.seconds),
        *_work(contenders, task.prompts, len(photos)),
    ]


def _measure(
    tally: _Tally,
    name: str,
    contender: MaskNamer,
    image: NDArray[np.uint8],
    objects: Sequence[CocoObject],
    kind: PromptKind,
) -> None:
    """Ask for the objects of a photo by one kind of prompt, and add the results."""
    if contender.meter is not None:
        contender.meter.begin()
    masks, took = _answer(contender, image, objects, kind)
    if contender.meter is not None:
        contender.meter.end(kind)
    tally.seconds.setdefault((name, kind), []).append(took)
    truth = (found.mask() for found in objects)
    tally.fits.add(name, f"{kind} {MASK}", list(map(iou, masks.packed, truth)))
    right = np.asarray([found.category for found in objects]) == masks.class_ids
    tally.hits.add(name, f"{kind} {TOP1}", right)


def _answer(
    contender: MaskNamer,
    image: NDArray[np.uint8],
    objects: Sequence[CocoObject],
    kind: PromptKind,
) -> tuple[Masks, float]:
    """Ask for all objects of a photo; returns the answer and the seconds it took."""
    if kind == "box":
        prompts: dict[str, Any] = {"boxes": [found.box for found in objects]}
    else:
        prompts = {"points": [[interior_point(found.mask())] for found in objects]}
    start = time.perf_counter()
    scene = contender.model.encode(image)
    masks = scene.segment(**prompts, names=contender.vocabulary)
    took = time.perf_counter() - start
    scene.close()
    return masks, took


def _turns(names: Sequence[str], number: int) -> Sequence[str]:
    """Return the order on one photo: another model begins each time, as caches are warm later."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _speed(seconds: Mapping[tuple[str, PromptKind], Sequence[float]]) -> Iterator[Row]:
    for (name, kind), took in seconds.items():
        yield make_row(name, f"{kind} {SECONDS}", PHOTOS, median(took), "seconds")
    (first, _), *_ = seconds
    for (other, kind), took in seconds.items():
        if other != first:
            estimate = median_ratio(seconds[first, kind], took)
            yield make_row(f"{first} / {other}", f"{kind} {SECONDS}", PHOTOS, estimate, "ratio")


def _work(
    contenders: Mapping[str, MaskNamer], prompts: Sequence[PromptKind], photos: int
) -> Iterator[Row]:
    """Return parameters and MACs of each contender; no value for one without graphs."""
    for name, contender in contenders.items():
        meter = contender.meter
        parameters = None if meter is None else meter.parameters()
        yield _count(name, PARAMETERS, WHOLE, parameters, photos)
        for kind in prompts:
            macs = None if meter is None else meter.macs(kind) / photos
            yield _count(name, f"{kind} {MACS}", PHOTOS, macs, photos)


def _count(name: str, measure: str, subset: str, value: float | None, photos: int) -> Row:
    unit: Unit = "count"
    exact = float("nan") if value is None else float(value)
    return make_row(name, measure, subset, Estimate(exact, exact, exact, photos, photos), unit)


def comparison_tables(rows: Sequence[Row], untrained: Collection[str] = ()) -> Iterator[Table]:
    """Lay out rows, a table for each kind of prompt; `untrained`: models that are marked so.

    Rows are as in Open-Vocabulary SAM's Table 1: IoU and accuracy on base and novel classes, then
    seconds, parameters and MACs.
    """
    values = {(row.model, row.measure, row.subset): row.value for row in rows}
    models = [row.model for row in rows if row.measure == PARAMETERS]
    parts = [part for part in (ALL, BASE, NOVEL) if any(row.subset == part for row in rows)]
    kinds = [row.measure.removesuffix(f" {SECONDS}") for row in rows if row.unit == "seconds"]
    columns = (
        *text_columns("model"),
        *(
            Column(f"{measure}, {part.partition(' ')[0]}", "{:.3f}".format)
            for measure in (MASK, TOP1)
            for part in parts
        ),
        Column(SECONDS, "{:.3f}".format),
        Column(f"against {models[0] if models else ''}", as_fast),
        Column("M parameters", lambda value: f"{value / 1e6:,.1f}"),
        Column("GMACs a photo", lambda value: f"{value / 1e9:,.1f}"),
    )

    def line(kind: str, name: str) -> list[Cell]:
        taken = f"{kind} {SECONDS}"
        share = values.get((f"{models[0]} / {name}", taken, PHOTOS))
        return [
            f"{name} ({UNTRAINED})" if name in untrained else name,
            *(values.get((name, f"{kind} {what}", p)) for what in (MASK, TOP1) for p in parts),
            values.get((name, taken, PHOTOS)),
            1.0 if name == models[0] else share and 1 / share,
            values.get((name, PARAMETERS, WHOLE)),
            values.get((name, f"{kind} {MACS}", PHOTOS)),
        ]

    for kind in dict.fromkeys(kinds):
        yield Table(columns, [line(kind, name) for name in models], f"prompt: {kind}")
