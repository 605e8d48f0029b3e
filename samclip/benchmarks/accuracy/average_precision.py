"""Average precision of masks, by pycocotools; for LVIS by its federated rules.

A category is evaluated by itself, over the photos that have an object or a find of it. Figures are
the same as over all photos and categories at once, without LVIS's 1,203 x 19,809 empty pairs.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from samclip.benchmarks.data.coco import Categories, CocoObject, CocoPhoto
from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.scores import ALL, LARGEST, MEDIUM, SMALL
from samclip.benchmarks.statistics import Estimate
from samclip.runtime.results.coco import RleDict

AREAS = (ALL, SMALL, MEDIUM, LARGEST)  # in pycocotools' order
FREQUENCIES = {"r": "rare categories", "c": "common categories", "f": "frequent categories"}
AT_50, AT_75 = 0, 5  # of the thresholds 0.5, 0.55 ... 0.95
Place = tuple[str, str]  # model and kind of prompt, such as "box AP"


@dataclass(frozen=True)
class Find:
    """A mask that was found in the photo `photo`, an index: its category, score and outline."""

    photo: int
    category: int
    score: float
    rle: RleDict


@dataclass(frozen=True)
class AveragePrecision:
    """AP over some objects: `measure` is AP, AP50 or AP75; `objects`: how many there are."""

    measure: str
    subset: str
    value: float
    objects: int


def average_precision(
    photos: Sequence[CocoPhoto], categories: Categories, finds: Sequence[Find]
) -> list[AveragePrecision]:
    """Evaluate finds in P photos: AP, AP50, AP75, AP by size, and in LVIS by frequency.

    Parts without an object are left out.
    """
    tables, counts = {}, {}
    for place, group in _by_category(photos, categories, finds).items():
        if any(group.objects.values()):
            tables[place], counts[place] = _evaluate(group, categories.finds_per_photo)
    return list(_figures(tables, counts, categories))


@dataclass
class _Category:
    """Objects and finds of one category, by photo.

    `incomplete`: photos in which not every object of it is annotated.
    """

    objects: dict[int, list[CocoObject]]
    crowds: dict[int, list[CocoObject]]
    finds: dict[int, list[Find]]
    incomplete: set[int]


def _by_category(
    photos: Sequence[CocoPhoto], categories: Categories, finds: Sequence[Find]
) -> dict[int, _Category]:
    """Group objects and finds by category; a federated set drops finds that were not looked for."""
    groups: dict[int, _Category] = defaultdict(
        lambda: _Category(defaultdict(list), defaultdict(list), defaultdict(list), set())
    )
    for number, photo in enumerate(photos):
        for found in photo.objects:
            groups[found.category].objects[number].append(found)
        for crowd in photo.crowds:
            groups[crowd.category].crowds[number].append(crowd)
        for place in photo.incomplete:
            groups[place].incomplete.add(number)
    for find in finds:
        group = groups[find.category]
        searched = find.photo in group.objects or find.category in photos[find.photo].absent
        if searched or not categories.federated:
            group.finds[find.photo].append(find)
    return groups


class _Evaluation(COCOeval):  # type: ignore[misc]  # pycocotools has no types
    """COCO's evaluation; unmatched finds in `incomplete` photos do not count, as in LVIS."""

    incomplete: frozenset[int] = frozenset()

    def evaluateImg(self, imgId: int, *rest: Any) -> Any:  # noqa: N802, N803 - pycocotools' names
        """Match finds with objects in a photo."""
        found = super().evaluateImg(imgId, *rest)
        if found is not None and imgId in self.incomplete:
            found["dtIgnore"] = found["dtIgnore"] | (found["dtMatches"] == 0)
        return found


def _evaluate(group: _Category, limit: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Evaluate one category: precision TxRxA, -1 where there is no object, and objects A."""
    photos = sorted({*group.objects, *group.crowds, *group.finds})
    objects = [_truth(found, n, 0) for n in photos for found in group.objects[n]]
    crowds = [_truth(found, n, 1) for n in photos for found in group.crowds[n]]
    finds = [
        {
            "image_id": find.photo,
            "category_id": 0,
            "area": int(coco_mask.area(find.rle)),
            "segmentation": find.rle,
            "score": find.score,
        }
        for n in photos
        for find in group.finds[n]
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its steps
        evaluation = _Evaluation(_coco(photos, [*objects, *crowds]), _coco(photos, finds), "segm")
        evaluation.incomplete = frozenset(group.incomplete)
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
        evaluation.accumulate()
    areas = np.asarray([found["area"] for found in objects])
    ranges = evaluation.params.areaRng
    counts = [np.count_nonzero((areas >= low) & (areas <= high)) for low, high in ranges]
    return evaluation.eval["precision"][:, :, 0, :, 0], np.asarray(counts)


def _coco(photos: Sequence[int], annotations: Sequence[dict[str, Any]]) -> Any:
    """Put annotations into pycocotools' index; ids count from 1, since 0 means unmatched."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in photos],
        "categories": [{"id": 0}],
        "annotations": [{**found, "id": n} for n, found in enumerate(annotations, 1)],
    }
    coco.createIndex()
    coco.annToRLE = lambda annotation: annotation["segmentation"]  # all are encoded already
    return coco


def _truth(found: CocoObject, photo: int, crowd: int) -> dict[str, Any]:
    own = {"area": found.stated_area, "segmentation": found.rle, "iscrowd": crowd}
    return {"image_id": photo, "category_id": 0, **own}


def _figures(
    tables: dict[int, NDArray[np.float64]],
    counts: dict[int, NDArray[np.int64]],
    categories: Categories,
) -> Iterator[AveragePrecision]:
    """Average TxRxA precisions over thresholds, recalls and the categories that have objects."""
    if not tables:
        return
    stacked = np.stack(list(tables.values()))  # KxTxRxA
    objects = np.stack(list(counts.values()))  # KxA
    whole = stacked[..., 0]
    yield AveragePrecision("AP", AREAS[0], _mean(whole), int(objects[:, 0].sum()))
    for name, place in (("AP50", AT_50), ("AP75", AT_75)):
        yield AveragePrecision(name, AREAS[0], _mean(whole[:, place]), int(objects[:, 0].sum()))
    for area, subset in enumerate(AREAS[1:], 1):
        if objects[:, area].any():
            value = _mean(stacked[..., area])
            yield AveragePrecision("AP", subset, value, int(objects[:, area].sum()))
    frequencies = np.asarray([categories.frequencies[place] or "" for place in tables])
    for letter, subset in FREQUENCIES.items():
        chosen = frequencies == letter
        if chosen.any():
            yield AveragePrecision(
                "AP", subset, _mean(whole[chosen]), int(objects[chosen, 0].sum())
            )


def _mean(precisions: NDArray[np.float64]) -> float:
    return float(precisions[precisions > -1].mean())


def precision_rows(
    precisions: Mapping[Place, Sequence[AveragePrecision]], photos: int
) -> Iterator[Row]:
    """Return the precisions of models, kind by kind, and the first model's divided by each other's.

    AP is not a mean over photos, and has no interval.
    """
    for kind in dict.fromkeys(kind for _, kind in precisions):
        of_kind = {model: found for (model, other), found in precisions.items() if other == kind}
        first, *others = of_kind
        for model, found in of_kind.items():
            yield from (_row(model, kind, one, one.value, photos) for one in found)
        for other in others:
            for one, base in zip(of_kind[first], of_kind[other], strict=True):
                value = one.value / base.value if base.value else math.nan
                yield _row(f"{first} / {other}", kind, one, value, photos, "ratio")


def _row(
    model: str, kind: str, one: AveragePrecision, value: float, photos: int, unit: Unit = "share"
) -> Row:
    estimate = Estimate(value, math.nan, math.nan, one.objects, photos)
    measure = kind.replace("AP", one.measure)
    return make_row(model, measure, one.subset, estimate, unit)
