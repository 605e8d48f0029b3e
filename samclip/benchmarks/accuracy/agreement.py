"""Agreement of a model with a reference, on photos without truth.

The measures are those by which the exporter's gates judge reduced precision.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.scores import PHOTOS
from samclip.benchmarks.statistics import Estimate, mean
from samclip.engines.agreement import mean_cosine
from samclip.export.precision.gate_tasks import Answers, Questions, answer, ask
from samclip.export.precision.gates import mask_ious
from samclip.progress import SILENT, Progress, track
from samclip.runtime.model import Model
from samclip.runtime.text.vocabulary import Vocabulary

Values = Sequence[float] | NDArray[np.generic]

EMBEDDINGS, IMAGE, PATCHES = "SAM embedding cosine", "image embedding cosine", "patch cosine"
REGIONS = "region names cosine"
MASKS, LABELS, NAMES, TEXTS = "mask IoU", "same label", "same name", "text cosine"
PROTOCOL = (
    "The reference looks for objects on a grid of 6x6 points; its 16 surest finds of at least "
    "1,024 pixels are what both models are asked for, and what they name. Where it finds nothing, "
    "five boxes and their middles are asked for, if its answers are stable.",
    "SAM embedding, patch cosine: of what both models compute for the same place, averaged over "
    "the places of a photo, then over photos. image embedding cosine: of the whole photo.",
    "region names cosine, of bundles that name boxes: of both classifiers' logits for five "
    "boxes, over the names and less their mean, averaged over photos.",
    "mask IoU: of both models' masks for the same box, and for the same point; of the three that "
    "a point offers, the one with the reference's highest score.",
    "same label: the share of a photo's pixels that get the same name, coarsely, averaged over "
    "photos. same name: the share of photos and objects whose best name is the same; objects are "
    "the reference's masks.",
    "text cosine: of both models' embeddings of each name.",
    "worst: the lowest of all; it has no interval.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


@dataclass(frozen=True)
class Side:
    """One of the two models, and the names in its text space; None when it cannot name."""

    name: str
    model: Model
    vocabulary: Vocabulary | None


@dataclass
class _Samples:
    """The samples of each measure, and the photo of each."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    photos: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, measure: str, values: Values, photo: int) -> None:
        """Add what a photo gave."""
        self.values[measure] += [float(value) for value in values]
        self.photos[measure] += [photo] * len(values)


def evaluate_agreement(
    reference: Side, other: Side, photos: Sequence[Path], progress: Progress = SILENT
) -> list[Row]:
    """Ask both models the same of every photo, and compare.

    Measures that only one of the two can give, or that the two give in arrays of different sizes
    or in different text spaces, are left out. Raises ImageError, InputError, EngineRunError.
    """
    samples = _Samples()
    same_space = _same_space(reference.model, other.model)
    for number, photo in enumerate(track(progress, photos, "agreement")):
        questions, expected = ask(reference.model, photo, reference.vocabulary)
        found = answer(other.model, photo, questions, other.vocabulary)
        for measure, values in _compare(questions, expected, found, same_space):
            samples.add(measure, values, number)
    rows = list(_rows(other.name, samples))
    if same_space and reference.vocabulary is not None and other.vocabulary is not None:
        rows += _rows_of_texts(other.name, reference.vocabulary, other.vocabulary)
    return rows


def _same_space(one: Model, other: Model) -> bool:
    """Whether both models embed into one text space, so that their vectors can be compared."""
    texts = one.manifest.text, other.manifest.text
    return all(texts) and len({text.space for text in texts if text is not None}) == 1


def _compare(
    questions: Questions, expected: Answers, found: Answers, same_space: bool
) -> Iterator[tuple[str, Values]]:
    """Compare the answers on one photo; return the values of each measure."""
    vectors: Mapping[str, Callable[[Answers], NDArray[np.float32] | None]] = {
        EMBEDDINGS: lambda answers: answers.image_embeddings,
        IMAGE: lambda answers: answers.image_embed if same_space else None,
        PATCHES: lambda answers: answers.patch_embeds if same_space else None,
        REGIONS: lambda answers: answers.opinions,
    }
    for measure, of in vectors.items():
        one, other = of(expected), of(found)
        if one is not None and other is not None and one.shape == other.shape:
            yield measure, [mean_cosine(one, other)]
    yield MASKS, mask_ious(questions, expected, found)
    if expected.labels is not None and found.labels is not None:
        yield LABELS, [float((expected.labels == found.labels).mean())]
    if expected.names is not None and found.names is not None:
        yield NAMES, expected.names == found.names


def _rows(model: str, samples: _Samples) -> Iterator[Row]:
    """Average every measure; for all but shares, add the worst value."""
    for measure, values in samples.values.items():
        if not values:
            continue
        photos = samples.photos[measure]
        yield make_row(model, measure, PHOTOS, mean(values, photos))
        if measure not in {LABELS, NAMES}:
            worst = Estimate(min(values), math.nan, math.nan, len(values), len(set(photos)))
            yield make_row(model, f"{measure}, worst", PHOTOS, worst)


def _rows_of_texts(model: str, expected: Vocabulary, found: Vocabulary) -> Iterator[Row]:
    pairs = zip(expected.embeddings, found.embeddings, strict=True)
    cosines = [mean_cosine(one[None], other[None]) for one, other in pairs]
    for measure, value in ((TEXTS, float(np.mean(cosines))), (f"{TEXTS}, worst", min(cosines))):
        yield make_row(
            model, measure, "names", Estimate(value, math.nan, math.nan, len(cosines), 0)
        )
