"""Objects followed through videos, by one box in the first frame: J, the mean IoU of DAVIS.

Each frame is encoded once, and all ways answer from its scene, so that they differ in nothing but
how the object is found again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samclip.benchmarks.records import Row, Unit
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.scores import Candidate
from samclip.benchmarks.statistics import Estimate, mean
from samclip.errors import InputError
from samclip.progress import Progress, track
from samclip.runtime.pixels.image import SUFFIXES, load_image
from samclip.runtime.pixels.mask_ops import mask_box
from samclip.runtime.results.masks import Masks
from samclip.runtime.scene import Scene
from samclip.runtime.tasks.follow import Memory, region_embeddings
from samclip.video.tracks import Tracks

MEASURE, SWITCHES, FOUND = "J", "identity switches a clip", "frames with the object"
FOLLOWED, MASKS, FIRST_BOX, TRUE_BOX = (
    "followed, with memory",
    "the last mask as prompt",
    "the first box in each frame",
    "the true box in each frame",
)
BOX_TRACKERS = ("MIL", "KCF", "CSRT")  # of OpenCV, without a network; the last two are of contrib
SEEN = 0.5  # IoU from which a mask of `everything` counts as the object
PROTOCOL = (
    "J: IoU of the mask with the truth, averaged over the frames of a clip without its first one, "
    "then over the clips. The prompt is the box around the truth in the first frame.",
    "The 95 % interval is a bootstrap over clips, which few clips make wide.",
    f"{TRUE_BOX!r} is what the decoder could do if it knew where the object is. {FIRST_BOX!r} is "
    "the baseline that follows nothing.",
    "KCF and CSRT are in opencv-contrib-python-headless, MIL in each OpenCV package. A tracker "
    "that lost the object answers with an empty mask.",
    "A switch: the mask of `everything` that is the object (IoU of 0.5 or more) has another track "
    f"number than the one before it. {FOUND!r}: the share of frames that have such a mask.",
)


@dataclass(frozen=True)
class Clip:
    """A video as images, and the truth of each of T frames, HxW bool, 255 or 1 inside."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def truth(self, index: int) -> NDArray[np.bool_]:
        """Read the truth of a frame: HxW bool."""
        with Image.open(self.masks[index]) as picture:
            return np.asarray(np.asarray(picture.convert("L")) > 0)


def read_clips(folder: Path, every: int = 1, limit: int | None = None) -> tuple[Clip, ...]:
    """List the clips of a folder: CLIP/frames/*.jpg with CLIP/masks/*.png of the same stems.

    `every`: take every n-th frame; `limit`: so many of these at most. Raises InputError.
    """
    clips = []
    for place in sorted(path for path in folder.iterdir() if (path / "frames").is_dir()):
        frames = sorted(p for p in (place / "frames").iterdir() if p.suffix.lower() in SUFFIXES)
        masks = {path.stem: path for path in (place / "masks").glob("*.png")}
        if lacking := [path.name for path in frames if path.stem not in masks]:
            raise InputError(f"{place.name}: {lacking[0]} has no mask. Add masks/{lacking[0]}.")
        chosen = tuple(frames[::every][:limit])
        if len(chosen) > 1:
            clips.append(Clip(place.name, chosen, tuple(masks[path.stem] for path in chosen)))
    if not clips:
        raise InputError(
            f"{folder} has no clip of two frames or more. Give a folder of CLIP/frames/*.jpg and "
            "CLIP/masks/*.png."
        )
    return tuple(clips)


def named(kind: str) -> str:
    """Return how rows call a tracker of OpenCV."""
    return f"OpenCV's {kind} tracker, its box as prompt"


def _box_trackers() -> Iterator[tuple[str, Any]]:
    """Yield those of OpenCV's trackers that the installed package has, each made for one object."""
    for kind in BOX_TRACKERS:
        if hasattr(cv2, f"Tracker{kind}"):
            yield kind, getattr(cv2, f"Tracker{kind}").create()


class _Ways:
    """All ways to follow one object, each with its state."""

    def __init__(self, scene: Scene, box: NDArray[np.float32]) -> None:
        self._first_box = box
        begun = scene.segment(boxes=[box])
        self._masks: Masks = begun
        self._memory: Memory | None = scene.remember(begun) if begun.areas[0] else None
        self._trackers = {named(kind): tracker for kind, tracker in _box_trackers()}
        x0, y0, x1, y1 = (int(edge) for edge in box)
        for tracker in self._trackers.values():
            tracker.init(scene.image[..., ::-1].copy(), (x0, y0, x1 - x0, y1 - y0))

    def answers(
        self, scene: Scene, truth: NDArray[np.bool_]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield what each way answers in the next frame: HxW bool."""
        empty = np.zeros(scene.size, np.bool_)
        yield FOLLOWED, empty if self._memory is None else scene.follow(self._memory).masks[0]
        self._masks = scene.follow(self._masks)
        yield MASKS, self._masks.masks[0]
        yield FIRST_BOX, _by_box(scene, self._first_box)
        for way, tracker in self._trackers.items():
            found, (x, y, width, height) = tracker.update(scene.image[..., ::-1].copy())
            yield way, _by_box(scene, (x, y, x + width, y + height)) if found else empty
        yield TRUE_BOX, _by_box(scene, mask_box(truth)) if truth.any() else empty


def _by_box(scene: Scene, box: Any) -> NDArray[np.bool_]:
    height, width = scene.size
    inside = np.clip(np.asarray(box, np.float64), 0, (width, height, width, height))
    if (inside[2:] <= inside[:2]).any():
        return np.zeros(scene.size, np.bool_)
    return np.asarray(scene.segment(boxes=[inside]).masks[0])


def evaluate_followed(
    candidate: Candidate, clips: Sequence[Clip], points: int | None, progress: Progress
) -> list[Row]:
    """Follow the object of each clip by all ways; with `points`, number `everything`'s masks too.

    `points`: on a side of the grid. Return the rows of J, by clip as details, and of switches.
    """
    values: dict[str, list[list[float]]] = {}
    switches: list[float] = []
    shares: list[float] = []
    for number, clip in enumerate(clips):
        tracks, numbers = Tracks(), []
        ways: _Ways | None = None
        for index in track(progress, range(len(clip.frames)), clip.name):
            truth = clip.truth(index)
            with candidate.model.encode(load_image(clip.frames[index])) as scene:
                if ways is None:
                    ways = _Ways(scene, mask_box(truth))
                else:
                    for way, mask in ways.answers(scene, truth):
                        rows = values.setdefault(way, [])
                        rows += [[] for _ in range(number + 1 - len(rows))]
                        rows[number].append(_iou(mask, truth))
                if points is not None:
                    found = scene.everything(points_per_side=points)
                    embeddings = region_embeddings(scene.features, found.packed)
                    given = tracks.update(found, embeddings)
                    overlaps = [_iou(mask, truth) for mask in found.packed]
                    if truth.any() and overlaps and max(overlaps) >= SEEN:
                        numbers.append(int(given[int(np.argmax(overlaps))]))
        switches.append(float(sum(a != b for a, b in pairwise(numbers))))
        shares.append(len(numbers) / len(clip.frames))
    results = list(_rows(values, clips))
    if points is not None:
        results += _by_clip(candidate.name, SWITCHES, switches, clips, "count")
        results += _by_clip(candidate.name, FOUND, shares, clips, "share")
    return results


def _rows(values: dict[str, list[list[float]]], clips: Sequence[Clip]) -> Iterator[Row]:
    for way, by_clip in values.items():
        means = [float(np.mean(ious)) for ious in by_clip]
        yield make_row(way, MEASURE, "all clips", _over_clips(means))
        for clip, ious in zip(clips, by_clip, strict=True):
            one = _one(float(np.mean(ious)), len(ious))
            yield make_row(way, MEASURE, clip.name, one, detail=True)


def _by_clip(
    name: str, measure: str, values: Sequence[float], clips: Sequence[Clip], unit: Unit
) -> Iterator[Row]:
    yield make_row(name, measure, "all clips", _over_clips(values), unit)
    for clip, value in zip(clips, values, strict=True):
        yield make_row(name, measure, clip.name, _one(value, 1), unit, detail=True)


def _one(value: float, count: int) -> Estimate:
    """Return the figure of one clip, which has no interval."""
    return Estimate(value, float("nan"), float("nan"), count, 1)


def _over_clips(means: Sequence[float]) -> Estimate:
    return mean(means, range(len(means)))


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the IoU; two empty masks agree."""
    either = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / either if either else 1.0
