"""The models of one comparison, and the rows that compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from samclip.benchmarks.rows import Row, make_row
from samclip.benchmarks.statistics import mean, ratio
from samclip.benchmarks.subsets import Subsets
from samclip.runtime.model import Model


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
        """Add what one photo's objects got."""
        self.values.setdefault((model, measure), []).extend(float(value) for value in values)

    def measures(self) -> tuple[str, ...]:
        """List the measures in the order in which they came."""
        return tuple(dict.fromkeys(measure for _, measure in self.values))

    def models(self, measure: str) -> tuple[str, ...]:
        """List the models that have a measure, in the order in which they came."""
        return tuple(model for model, other in self.values if other == measure)


def compare(scores: Scores, subsets: Subsets) -> Iterator[Row]:
    """Average every measure over every part; divide the first model's by each of the others'."""
    photos = np.asarray(scores.photos)
    for measure in scores.measures():
        for part, chosen in subsets.items():
            if chosen.any():
                values = {
                    model: np.asarray(scores.values[model, measure])[chosen]
                    for model in scores.models(measure)
                }
                yield from _rows(measure, part, values, photos[chosen])


def _rows(
    measure: str, part: str, values: Mapping[str, np.ndarray], photos: np.ndarray
) -> Iterator[Row]:
    for model, numbers in values.items():
        yield make_row(model, measure, part, mean(numbers, photos))
    first, *others = values
    for other in others:
        estimate = ratio(values[first], values[other], photos)
        yield make_row(f"{first} / {other}", measure, part, estimate, "ratio")
