"""Scores of objects by model and measure, and the rows that compare models on parts of the data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.data.coco import CocoObject
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import mean, ratio
from samclip.runtime.model import Model

LARGE_AREA = 1024  # pixels of the original photo, COCO's bound between small and medium
LARGER_AREA = 9216  # and between medium and large
ALL, LARGE = "all objects", f"area > {LARGE_AREA:,} px"
SMALL, MEDIUM, LARGEST = "small objects", "medium objects", "large objects"
PHOTOS = "all photos"
BASE, NOVEL = "base classes", "novel classes"

Subsets = dict[str, NDArray[np.bool_]]
Contrast = Literal["ratio", "difference"]


def of_objects(
    objects: Sequence[CocoObject], names: Sequence[str] = (), apart: str | None = None
) -> Subsets:
    """Return which of N objects belong to each part, N bool: all, large ones, both without a class.

    `apart`: that class; the parts without it are given only if it is among `names`.
    """
    areas = np.asarray([found.area for found in objects])
    parts = {ALL: np.ones(len(areas), np.bool_), LARGE: areas > LARGE_AREA}
    if apart is None or apart not in names:
        return parts
    others = np.asarray([found.category for found in objects]) != names.index(apart)
    more = {f"{part}, without {apart}": chosen & others for part, chosen in parts.items()}
    return {**parts, **more}


def of_split(objects: Sequence[CocoObject], novel: Collection[int] | None) -> Subsets:
    """Return which of N objects are of `novel` categories, and which of base ones; None: no parts.

    The split of open-vocabulary detection: a model was trained to name base categories alone.
    """
    if novel is None:
        return {}
    is_novel = np.asarray([found.category in novel for found in objects], np.bool_)
    return {BASE: ~is_novel, NOVEL: is_novel}


def by_size(objects: Sequence[CocoObject]) -> Subsets:
    """Return which of N objects belong to each part: those of `of_objects`, then COCO's sizes.

    By the pixels of their masks: small to 32x32, medium to 96x96, large above.
    """
    return {**of_objects(objects), **by_area(np.asarray([found.area for found in objects]))}


def by_area(areas: NDArray[np.integer]) -> Subsets:
    """Return which of N masks of so many pixels are of each of COCO's sizes, N bool each."""
    is_large = areas > LARGER_AREA
    is_small = areas <= LARGE_AREA
    return {SMALL: is_small, MEDIUM: ~is_small & ~is_large, LARGEST: is_large}


@dataclass(frozen=True)
class Candidate:
    """A model and what rows call it."""

    name: str
    model: Model


@dataclass
class Scores:
    """Numbers per object, by model and measure, all over the same N objects in the same order.

    `photos`: the photo of each object.
    """

    photos: list[int] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, model: str, measure: str, values: Sequence[float] | np.ndarray) -> None:
        """Add the values of one photo's objects."""
        self.values.setdefault((model, measure), []).extend(float(value) for value in values)

    def measures(self) -> tuple[str, ...]:
        """List the measures in the order in which they came."""
        return tuple(dict.fromkeys(measure for _, measure in self.values))

    def models(self, measure: str) -> tuple[str, ...]:
        """List the models that have a measure, in the order in which they came."""
        return tuple(model for model, other in self.values if other == measure)


def compare(scores: Scores, subsets: Subsets, unit: Contrast = "ratio") -> Iterator[Row]:
    """Average every measure over every part, and compare the first model with each of the others.

    By the ratio of the means, or by the mean of the objects' differences.
    """
    photos = np.asarray(scores.photos)
    for measure in scores.measures():
        for part, chosen in subsets.items():
            if chosen.any():
                values = {
                    model: np.asarray(scores.values[model, measure])[chosen]
                    for model in scores.models(measure)
                }
                yield from _rows(measure, part, values, photos[chosen], unit)


def _rows(
    measure: str, part: str, values: Mapping[str, np.ndarray], photos: np.ndarray, unit: Contrast
) -> Iterator[Row]:
    for model, numbers in values.items():
        yield make_row(model, measure, part, mean(numbers, photos))
    first, *others = values
    for other in others:
        if unit == "ratio":
            sign, estimate = "/", ratio(values[first], values[other], photos)
        else:
            sign, estimate = "-", mean(values[first] - values[other], photos)
        yield make_row(f"{first} {sign} {other}", measure, part, estimate, unit)
