"""Accuracy of names with examples: top-1 with 1 and more of them on other photos, and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.data.coco import CocoPhoto
from samclip.benchmarks.data.image_folder import ClassPhoto
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import LARGE_AREA, Candidate, Scores, compare
from samclip.progress import SILENT, Progress, track
from samclip.runtime.example_regions import mean_token, picture_space
from samclip.runtime.text.examples import Examples
from samclip.runtime.text.vocabulary import Vocabulary, unit_rows

SEED = 0
HALVES = 2
ALL_NAMES, WITH, WITHOUT = "all names", "names with examples", "names without examples"
PROTOCOL = (
    "Photos are split in two halves, class by class, in an order that is drawn once with a fixed "
    "seed. Examples are taken from one half and the other is named; then the halves change places. "
    "So every photo is named once, and no photo is named by an example of itself.",
    "all names: every name has that many examples. Names with and without: every second name has "
    "them, the others are known by their texts alone; all compete.",
    "Names that have fewer pictures in a half get no examples, and are not counted. Rivals are "
    "names without pictures, which compete by their texts.",
    "by text alone: the same photos, names without any example.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


@dataclass(frozen=True, eq=False)
class Pictures:
    """N pictures of things, embedded, from P photos.

    `embeddings`: NxD float32, unit rows; `categories`, `photos`: N int64, of each its name and its
    photo; `centres`: PxD, the mean token of each photo, see `samclip.runtime.text.examples`.
    """

    embeddings: NDArray[np.float32]
    categories: NDArray[np.int64]
    photos: NDArray[np.int64]
    centres: NDArray[np.float32]


def embed_photos(
    candidate: Candidate, photos: Sequence[ClassPhoto], progress: Progress = SILENT
) -> Pictures:
    """Embed whole photos of one thing each; raises ImageError, EngineRunError."""
    embeddings, centres = [], []
    for photo in track(progress, photos, "photos"):
        with candidate.model.encode(photo.path) as scene:
            embeddings.append(scene.image_embed)
            centres.append(mean_token(scene))
    categories = np.asarray([photo.category for photo in photos], np.int64)
    rows = unit_rows(np.stack(embeddings))
    return Pictures(rows, categories, np.arange(len(photos)), np.stack(centres))


def embed_objects(
    candidate: Candidate, photos: Sequence[CocoPhoto], progress: Progress = SILENT
) -> Pictures:
    """Embed objects of more than 1,024 pixels by their true masks, as `Scene.name` does."""
    embeddings, centres, owners = [], [], []
    categories: list[int] = []
    for number, photo in enumerate(track(progress, photos, "photos")):
        with candidate.model.encode(photo.pixels()) as scene:
            centres.append(mean_token(scene))
            for found in photo.objects:
                if found.area > LARGE_AREA:
                    embeddings.append(scene.embed_masks(found.mask())[0])
                    categories.append(found.category)
                    owners.append(number)
    rows = unit_rows(np.stack(embeddings))
    return Pictures(rows, np.asarray(categories), np.asarray(owners), np.stack(centres))


def evaluate_examples(
    candidate: Candidate, vocabulary: Vocabulary, pictures: Pictures, counts: Sequence[int]
) -> list[Row]:
    """Name all pictures with each of `counts` examples of their names, and by texts alone.

    Names without a picture compete by their texts.
    """
    space = picture_space(candidate.model.bundle)
    halves = _halves(pictures)
    names = len(vocabulary.names)
    every, second = np.ones(names, np.bool_), np.arange(names) % 2 == 0
    rows: list[Row] = []
    for count in counts:
        for chosen, parts in ((every, {ALL_NAMES: every}), (second, _parts(second))):
            answers = list(_answers(vocabulary, pictures, halves, count, chosen, space))
            if not answers:
                continue
            tested = np.concatenate([answer.tested for answer in answers])
            truth = pictures.categories[tested]
            scores = Scores(photos=pictures.photos[tested].tolist())
            measure = f"name top-1, {count} example{'' if count == 1 else 's'}"
            taught = np.concatenate([answer.taught for answer in answers])
            text = np.concatenate([answer.text for answer in answers])
            scores.add(f"{candidate.name} with examples", measure, taught == truth)
            scores.add(f"{candidate.name} by text alone", measure, text == truth)
            rows += compare(scores, {part: own[truth] for part, own in parts.items()})
    return rows


def _parts(second: NDArray[np.bool_]) -> Mapping[str, NDArray[np.bool_]]:
    return {WITH: second, WITHOUT: ~second}


@dataclass(frozen=True, eq=False)
class _Answers:
    """The pictures of one half that were named: their indices, and M indices of names each way."""

    tested: NDArray[np.int64]
    taught: NDArray[np.int64]
    text: NDArray[np.int64]


def _answers(
    vocabulary: Vocabulary,
    pictures: Pictures,
    halves: NDArray[np.int64],
    count: int,
    chosen: NDArray[np.bool_],
    space: str,
) -> Iterator[_Answers]:
    """Name each half with `count` examples from the other one for the `chosen` names."""
    owners = halves[pictures.photos]  # N, the half of each picture
    for half in range(HALVES):
        shown = _choose(pictures, owners != half, count, len(vocabulary.names))
        complete = np.asarray([len(rows) == count for rows in shown])
        tested = np.flatnonzero((owners == half) & complete[pictures.categories])
        if not len(tested):
            continue
        examples = _examples(vocabulary, pictures, shown, chosen & complete, space)
        taught = vocabulary.with_examples(examples)
        queries = pictures.embeddings[tested]
        best = [each.cosines(queries).argmax(axis=1) for each in (taught, vocabulary)]
        yield _Answers(tested, *best)


def _choose(
    pictures: Pictures, usable: NDArray[np.bool_], count: int, names: int
) -> list[NDArray[np.int64]]:
    """Choose up to `count` pictures of each of K `names`, of as many photos as there are."""
    chosen = []
    for category in range(names):
        rows = np.flatnonzero(usable & (pictures.categories == category))
        photos = pictures.photos[rows]
        # The first of each photo, then the second of each, and so on.
        turns = [np.count_nonzero(photos[:at] == photo) for at, photo in enumerate(photos)]
        turn = np.asarray(turns, np.int64)
        chosen.append(rows[np.argsort(turn, kind="stable")][:count])
    return chosen


def _examples(
    vocabulary: Vocabulary,
    pictures: Pictures,
    shown: Sequence[NDArray[np.int64]],
    chosen: NDArray[np.bool_],
    space: str,
) -> Examples:
    none = Examples.none(vocabulary.embeddings, len(vocabulary.names), space)
    sums, counts = np.zeros_like(none.sums), np.zeros_like(none.counts)
    photos: set[int] = set()
    for category, rows in enumerate(shown):
        if chosen[category]:
            sums[category] = pictures.embeddings[rows].sum(axis=0)
            counts[category] = len(rows)
            photos |= set(pictures.photos[rows].tolist())
    centre = pictures.centres[sorted(photos)].sum(axis=0)
    return none.add(sums, counts, centre, len(photos))


def _halves(pictures: Pictures) -> NDArray[np.int64]:
    """Split P photos in two, class by class: P int64, 0 or 1. A photo's class is that of its first.

    Photos without a picture come into either half.
    """
    first = np.full(len(pictures.centres), -1)
    for category, photo in zip(pictures.categories[::-1], pictures.photos[::-1], strict=True):
        first[photo] = category
    drawn = np.random.default_rng(SEED).permutation(len(first))
    order = drawn[np.argsort(first[drawn], kind="stable")]
    halves = np.zeros(len(first), np.int64)
    halves[order] = np.arange(len(order)) % HALVES
    return halves
