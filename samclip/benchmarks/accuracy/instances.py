"""How well masks fit: mIoU of one mask a prompt against the truth, box and point prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.benchmarks.candidates import Candidate, Scores, compare
from samclip.benchmarks.data.coco import CocoObject, CocoPhoto
from samclip.benchmarks.progress import Track, silent
from samclip.benchmarks.rows import Row
from samclip.benchmarks.subsets import of_objects
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene

PROMPTS_AT_ONCE = 64  # bounds the masks that are held
PER_POINT = 3  # masks of an ambiguous prompt
BOX, POINT, BEST = "box mIoU", "point mIoU", "point mIoU, best of three"
PROTOCOL = (
    "box: the annotation's box is the prompt, the decoder's single-mask output the answer.",
    "point: the prompt is the object's pixel farthest from its outline (Euclidean distance "
    "transform, outside the photo counts as background; the first in reading order of several); "
    "the answer is the one of three masks whose predicted IoU is highest.",
    "best of three: of the same three masks the one that fits the truth best.",
    "IoU is counted in pixels of the original photo and averaged over objects; crowds are left "
    "out. Areas are pixels of the object's mask.",
    "Intervals: percentile bootstrap over photos, seeded, 95 %.",
)


def evaluate_instances(
    candidates: Sequence[Candidate], photos: Sequence[CocoPhoto], track: Track = silent
) -> list[Row]:
    """Measure the masks of all `candidates`, in turn, and divide the first by each other.

    Raises ImageError, InputError, EngineRunError.
    """
    scores = Scores()
    objects: list[CocoObject] = []
    for number, photo in enumerate(track(photos, "instances")):
        image = photo.pixels()
        scores.photos += [number] * len(photo.objects)
        objects += photo.objects
        for candidate in candidates:
            with candidate.model.encode(image) as scene:
                _score(scene, photo, candidate.name, scores)
    return list(compare(scores, of_objects(objects)))


def _score(scene: Scene, photo: CocoPhoto, name: str, scores: Scores) -> None:
    for start in range(0, len(photo.objects), PROMPTS_AT_ONCE):
        objects = photo.objects[start : start + PROMPTS_AT_ONCE]
        truth = [found.mask() for found in objects]
        boxed = scene.segment(boxes=[found.box for found in objects])
        scores.add(name, BOX, list(map(iou, boxed.packed, truth)))
        points = [[interior_point(mask)] for mask in truth]
        pointed = scene.segment(points=points, multimask=True)
        fits = _fits_of_three(pointed, truth)  # Nx3
        chosen = pointed.scores.reshape(-1, PER_POINT).argmax(axis=1)  # 3N -> Nx3 -> N
        scores.add(name, POINT, np.take_along_axis(fits, chosen[:, None], axis=1)[:, 0])
        scores.add(name, BEST, fits.max(axis=1))


def _fits_of_three(masks: Masks, truth: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Compare three masks a prompt with its truth: Nx3 IoUs."""
    pairs: Iterator[float] = (
        iou(mask, truth[prompt])
        for mask, prompt in zip(masks.packed, masks.prompt_index, strict=True)
    )
    return np.fromiter(pairs, np.float64).reshape(-1, PER_POINT)  # 3N -> Nx3


def iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Divide the pixels in both HxW masks by those in either; 0 where both are empty."""
    either = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / either if either else 0.0


def interior_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the (x, y), in pixels, of the middle of a HxW mask's most interior pixel."""
    framed = np.pad(mask.astype(np.uint8), 1)
    distances = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(distances.argmax(), mask.shape)
    return float(column) + 0.5, float(row) + 0.5
