"""mIoU and AP of masks for known objects: one mask for each box or point, and refined once.

A point is where a person would click: inside the object, and then at the largest error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.accuracy.average_precision import Find, average_precision, precision_rows
from samclip.benchmarks.data.coco import Categories, CocoObject, CocoPhoto
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import Candidate, Scores, by_size, compare
from samclip.progress import SILENT, Progress, track
from samclip.runtime.pixels.mask_ops import encode_rle
from samclip.runtime.results.coco import RleDict
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene

PROMPTS_AT_ONCE = 64  # bounds the masks that are held
PER_POINT = 3  # masks of an ambiguous prompt
BOX, AGAIN, BOX_CLICK = "box", "box again", "box + click"
POINT, POINT_CLICK = "point", "point + click"
BEST = f"{POINT} mIoU, best of three"
PROTOCOL = (
    "box: the annotation's box is the prompt, the decoder's single-mask output the answer.",
    "point: the prompt is the object's pixel farthest from its outline (Euclidean distance "
    "transform, outside the photo counts as background; the first in reading order of several); "
    "the answer is the one of three masks whose predicted IoU is highest.",
    "best of three: of the same three masks the one that fits the truth best. A decoder that gives "
    "one mask for each prompt has no such row, and its one mask is the answer to a point.",
    "box again: one refinement without the truth: the box once more, with the low-resolution "
    "logits of its first answer as mask prompt.",
    "+ click: one refinement with the truth: the first prompt once more, its logits as mask "
    "prompt, and a point where the first answer errs, the pixel farthest from the border of its "
    "region among all that are missed (foreground) or too many (background).",
    "mIoU: IoU is counted in pixels of the original photo and averaged over objects; crowds are "
    "left out. Areas are pixels of the object's mask.",
    "AP: pycocotools' mask AP over IoU 0.50 to 0.95 and categories. Every object is asked for, so "
    "there are no finds of other categories; an answer has its object's category, and the "
    "predicted IoU as score. Small, medium and large by the areas that the annotations state; "
    "crowds are ignored; at most 100 answers a photo and category, 300 in LVIS. No interval.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The answers to N prompts, one mask each.

    `fits`: N IoUs with the truth; `scores`: N, the IoUs that the model predicts; `outlines`: N.
    """

    fits: NDArray[np.float64]
    scores: NDArray[np.float64]
    outlines: tuple[RleDict, ...]

    @classmethod
    def of(cls, masks: Masks, truth: Sequence[NDArray[np.bool_]]) -> Outcomes:
        """Compare N masks with their N truths, HxW each."""
        return cls(
            np.fromiter(map(iou, masks.packed, truth), np.float64),
            masks.scores.astype(np.float64),
            tuple(map(encode_rle, masks.packed)),
        )

    def taken(self, rows: NDArray[np.int64]) -> Outcomes:
        """Return M of the answers."""
        outlines = tuple(self.outlines[row] for row in rows)
        return Outcomes(self.fits[rows], self.scores[rows], outlines)

    def replaced(self, rows: Sequence[int], others: Outcomes) -> Outcomes:
        """Return the answers with M others in place of those at M `rows`."""
        fits, scores, outlines = self.fits.copy(), self.scores.copy(), list(self.outlines)
        fits[rows], scores[rows] = others.fits, others.scores
        for row, outline in zip(rows, others.outlines, strict=True):
            outlines[row] = outline
        return Outcomes(fits, scores, tuple(outlines))


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Divide the pixels in both HxW masks by those in either; 0 where both are empty."""
    either = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / either if either else 0.0


class Click(NamedTuple):
    """A point (x, y), the middle of a pixel; `label`: 1 where the object is, 0 where it is not."""

    point: tuple[float, float]
    label: int


def interior_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the (x, y), in pixels, of the middle of a HxW mask's most interior pixel."""
    return _deepest(mask)[0]


def correction(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Click | None:
    """Return the click that corrects a HxW mask, at the middle of its largest error; None if right.

    Of all pixels that are missed or too many, the one farthest from the border of its region, as
    segment-anything (Kirillov et al. 2023, section 7.1) follows interactive segmentation
    (Sofiiuk et al. 2021).
    """
    missed, surplus = truth & ~mask, mask & ~truth
    if not (missed.any() or surplus.any()):
        return None
    (inside, how_far), (outside, how_far_out) = _deepest(missed), _deepest(surplus)
    return Click(inside, 1) if how_far >= how_far_out else Click(outside, 0)


def _deepest(mask: NDArray[np.bool_]) -> tuple[tuple[float, float], float]:
    """Find the pixel of a HxW mask that is farthest from its outline, and how far it is.

    The first in reading order of several; the border of the photo is an outline.
    """
    framed = np.pad(mask.astype(np.uint8), 1)
    distances = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(distances.argmax(), mask.shape)
    return (float(column) + 0.5, float(row) + 0.5), float(distances[row, column])


def evaluate_instances(
    candidates: Sequence[Candidate],
    photos: Sequence[CocoPhoto],
    categories: Categories,
    *,
    refine: bool = True,
    progress: Progress = SILENT,
) -> list[Row]:
    """Measure the masks of all `candidates`, in turn, and divide the first by each other.

    `refine`: also those of one refinement. Raises ImageError, InputError, EngineRunError.
    """
    tally = _Tally()
    objects: list[CocoObject] = []
    for number, photo in enumerate(track(progress, photos, "instances")):
        image = photo.pixels()
        tally.scores.photos += [number] * len(photo.objects)
        objects += photo.objects
        for candidate in candidates:
            with candidate.model.encode(image) as scene:
                for start in range(0, len(photo.objects), PROMPTS_AT_ONCE):
                    part = photo.objects[start : start + PROMPTS_AT_ONCE]
                    for kind, outcomes in ask_objects(scene, part, refine):
                        tally.add(candidate.name, kind, outcomes, number, part)
    precisions = {
        place: average_precision(photos, categories, finds) for place, finds in tally.finds.items()
    }
    return [*compare(tally.scores, by_size(objects)), *precision_rows(precisions, len(photos))]


@dataclass
class _Tally:
    """All outcomes: IoUs for `compare`, and finds by model and kind for AP."""

    scores: Scores = field(default_factory=Scores)
    finds: dict[tuple[str, str], list[Find]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, model: str, kind: str, outcomes: Outcomes, photo: int, objects: Sequence[CocoObject]
    ) -> None:
        """Add the outcomes of N objects of a photo."""
        if kind == BEST:  # chosen with the truth: not an answer of the model
            self.scores.add(model, BEST, outcomes.fits)
            return
        self.scores.add(model, f"{kind} mIoU", outcomes.fits)
        for found, score, outline in zip(objects, outcomes.scores, outcomes.outlines, strict=True):
            self.finds[model, f"{kind} AP"].append(
                Find(photo, found.category, float(score), outline)
            )


def ask_objects(
    scene: Scene, objects: Sequence[CocoObject], refine: bool
) -> Iterator[tuple[str, Outcomes]]:
    """Ask for N objects of a scene by each kind of prompt."""
    truth = [found.mask() for found in objects]
    boxes = [found.box for found in objects]
    boxed = scene.segment(boxes=boxes)
    box = Outcomes.of(boxed, truth)
    yield BOX, box
    if refine:
        yield AGAIN, Outcomes.of(scene.segment(boxes=boxes, mask=boxed.low_res_logits), truth)
        yield BOX_CLICK, _with_click(scene, boxed, box, truth, boxes=boxes)
    points = [interior_point(mask) for mask in truth]
    first, point, best = _ask_points(scene, points, truth)
    yield POINT, point
    if best is not None:
        yield BEST, best
    if refine:
        yield POINT_CLICK, _with_click(scene, first, point, truth, points=points)


def _ask_points(
    scene: Scene, points: Sequence[tuple[float, float]], truth: Sequence[NDArray[np.bool_]]
) -> tuple[Masks, Outcomes, Outcomes | None]:
    """Ask for N objects by points; return the surest masks, their outcomes, and the best ones.

    The best of three masks is the one that fits the truth best; None where there is one mask only.
    """
    prompts = [[point] for point in points]
    if not scene.features.has_multimask:
        single = scene.segment(points=prompts)
        return single, Outcomes.of(single, truth), None
    three = scene.segment(points=prompts, multimask=True)
    each = [mask for mask in truth for _ in range(PER_POINT)]  # N -> 3N
    offered = Outcomes.of(three, each)
    surest = _best(offered.scores)
    return three[surest], offered.taken(surest), offered.taken(_best(offered.fits))


def _best(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of the best of each three among 3N values: N indices."""
    table = values.reshape(-1, PER_POINT)  # 3N -> Nx3
    return np.asarray(PER_POINT * np.arange(len(table)) + table.argmax(axis=1))


def _with_click(
    scene: Scene,
    first: Masks,
    outcomes: Outcomes,
    truth: Sequence[NDArray[np.bool_]],
    *,
    boxes: Sequence[tuple[float, ...]] | None = None,
    points: Sequence[tuple[float, float]] | None = None,
) -> Outcomes:
    """Ask for N objects once more, each with a click on the worst error of its `first` mask.

    Objects that the first mask fits to the pixel keep it.
    """
    clicks = [correction(mask, true) for mask, true in zip(first.packed, truth, strict=True)]
    rows = [row for row, click in enumerate(clicks) if click is not None]
    if not rows or first.low_res_logits is None:
        return outcomes
    made = [click for click in clicks if click is not None]
    before = [[points[row]] if points else [] for row in rows]
    second = scene.segment(
        points=[[*known, click.point] for known, click in zip(before, made, strict=True)],
        labels=[[*(1 for _ in known), c.label] for known, c in zip(before, made, strict=True)],
        boxes=None if boxes is None else [boxes[row] for row in rows],
        mask=first.low_res_logits[rows],
    )
    return outcomes.replaced(rows, Outcomes.of(second, [truth[row] for row in rows]))
