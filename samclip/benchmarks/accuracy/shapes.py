"""Masks and names on each photo's own shape of input against the first shape alone, paired.

The same objects of the same photos are asked for on both, so that what the photos have in common
drops out of the difference, and its interval is narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from samclip.benchmarks.accuracy.instances import BEST, PROMPTS_AT_ONCE, ask_objects
from samclip.benchmarks.accuracy.names import TOP1, name_objects
from samclip.benchmarks.data.coco import CocoPhoto
from samclip.benchmarks.formats import format_interval, format_value
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import ALL, Candidate, Scores, Subsets, compare
from samclip.progress import SILENT, Progress, track
from samclip.runtime.pixels.image import Letterbox
from samclip.runtime.text.vocabulary import Vocabulary

WITHIN = 0.005  # of IoU, or of a share: the loss that a further shape may have
NEAR = 16  # pixels of the input from the photo's end that faces the first shape's padding
FULL = "photos that fill their shape"
AT_PADDING, ELSEWHERE = "objects at the padding", "other objects"
PROTOCOL = (
    "box, point: mIoU of one mask for the object's box, and for the pixel farthest from its "
    "outline, as in `samclip-bench accuracy instances`. name top-1: the name of the true mask.",
    "Photos whose shape is the first one are left out: nothing differs for them.",
    "A difference is taken object by object and averaged over objects. Intervals: percentile "
    "bootstrap over photos, seeded, 95 %; of a difference, with the same photos drawn for both.",
    f"'{FULL}': no padding is left around them. '{AT_PADDING}': boxes that end within {NEAR} "
    "pixels of the input of the photo's lower or right end, where the first shape's padding "
    "begins.",
)


@dataclass(frozen=True)
class _Place:
    """Where one object is: the photo's canvas (h, w), whether it is full, and at its padding."""

    canvas: tuple[int, int]
    full: bool
    at_padding: bool


def other_photos(candidate: Candidate, photos: Sequence[CocoPhoto]) -> list[CocoPhoto]:
    """Return the photos that a model encodes on another shape than its first one."""
    first = candidate.model.manifest.canvases[0]
    return [photo for photo in photos if _place(candidate, photo).canvas != first]


def evaluate_shapes(
    shaped: Candidate,
    first: Candidate,
    photos: Sequence[CocoPhoto],
    vocabulary: Vocabulary | None = None,
    progress: Progress = SILENT,
) -> list[Row]:
    """Ask for all objects on the photos' own shapes, and on the first shape; both, and differences.

    `shaped` and `first` are one bundle, with all of its shapes and with the first alone.
    `vocabulary`: the data's categories, in the bundle's text space; None to name nothing. Raises
    ImageError, InputError, EngineRunError.
    """
    scores = Scores()
    places: list[_Place] = []
    for number, photo in enumerate(track(progress, photos, "objects on both shapes")):
        image = photo.pixels()
        scores.photos += [number] * len(photo.objects)
        places += _places(shaped, photo)
        truth = np.asarray([found.category for found in photo.objects])
        for one in (shaped, first):
            with one.model.encode(image) as scene:
                for start in range(0, len(photo.objects), PROMPTS_AT_ONCE):
                    part = photo.objects[start : start + PROMPTS_AT_ONCE]
                    for kind, outcomes in ask_objects(scene, part, refine=False):
                        measure = kind if kind == BEST else f"{kind} mIoU"
                        scores.add(one.name, measure, outcomes.fits)
                if vocabulary is not None:
                    answers, _ = name_objects(scene, photo, vocabulary)
                    scores.add(one.name, TOP1, answers == truth)
    return list(compare(scores, _subsets(places), "difference"))


def _place(candidate: Candidate, photo: CocoPhoto) -> Letterbox:
    model = candidate.model
    size = model.manifest.preprocessing.image_size
    return Letterbox.choose(photo.size, size, model.bundle.canvases)


def _places(candidate: Candidate, photo: CocoPhoto) -> Iterator[_Place]:
    """Find where each object of a photo is."""
    letterbox = _place(candidate, photo)
    first = candidate.model.manifest.canvases[0]
    full = letterbox.input_size == letterbox.canvas
    for found in photo.objects:
        (right, bottom) = letterbox.to_input(found.box[2:])
        ends = zip((bottom, right), letterbox.input_size, letterbox.canvas, first, strict=True)
        near = any(end >= own - NEAR for end, own, side, whole in ends if side < whole)
        yield _Place(letterbox.canvas, full, near)


def _subsets(places: Sequence[_Place]) -> Subsets:
    canvases = dict.fromkeys(place.canvas for place in places)
    return {
        ALL: np.ones(len(places), np.bool_),
        **{
            f"on {width} x {height}": np.asarray([p.canvas == (height, width) for p in places])
            for height, width in canvases
        },
        FULL: np.asarray([place.full for place in places], np.bool_),
        AT_PADDING: np.asarray([place.at_padding for place in places], np.bool_),
        ELSEWHERE: np.asarray([not place.at_padding for place in places], np.bool_),
    }


def verdicts(rows: Sequence[Row]) -> Iterator[tuple[str, bool]]:
    """Yield a sentence on each measure over all objects, and whether the loss is within `WITHIN`.

    It is shown where the whole interval lies above -0.005; a value that does, while its interval
    does not, shows nothing yet.
    """
    for row in rows:
        if row.unit != "difference" or row.subset != ALL or row.value is None or row.low is None:
            continue
        holds = row.low >= -WITHIN
        if holds:
            meaning = f"no loss above {WITHIN}"
        elif row.value >= -WITHIN:
            meaning = f"a loss above {WITHIN} is not excluded: more photos would tell"
        else:
            meaning = f"a loss above {WITHIN}"
        figure = f"{format_value(row.value, row.unit)} [{format_interval(row)}]"
        yield f"{row.measure}: {figure} on {row.photos} photos: {meaning}", holds
