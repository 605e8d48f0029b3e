"""Identities of masks across frames: by their overlap, their movement and their embedding.

For masks that are found again in each frame, by a grid of points or a detector. Objects that a
prompt began are followed by `Scene.follow` and keep their place. The embedding is the one that the
encoder pass has anyway, averaged over the mask, so that an object that was hidden gets its number
back. A tracker of another package may take this one's place: see `Tracker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.errors import InputError, brief
from samclip.runtime.results.masks import Masks

GRID = 64  # cells along each side of a frame, by which masks of frames of any size are compared
LEAST_OVERLAP = 0.2  # soft IoU of a mask with a track's last one, moved on
LEAST_LIKENESS = 0.9  # cosine of embeddings by which a track that was lost is found again
LEAST_AREA_RATIO = 0.4  # of the smaller to the larger mask, for the same
STEADINESS = 0.8  # share of a track's embedding that a new mask leaves
LIKENESS_WEIGHT = 0.5  # of the cosine, next to the overlap
UNKNOWN = -1  # the number of a mask that a tracker of another package leaves without one


class Tracker(Protocol):
    """What numbers masks: `Tracks`, or an adapter of another package's tracker."""

    def update(self, masks: Masks, embeddings: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Return the number of each of N masks of the next frame: N."""
        ...


@dataclass
class _Track:
    number: int
    shape: NDArray[np.float32]  # GRID x GRID, the share of the mask in each cell
    centre: NDArray[np.float64]  # (x, y), in cells
    velocity: NDArray[np.float64]  # cells a frame
    embedding: NDArray[np.float32] | None
    missed: int = 0

    def expected(self) -> NDArray[np.float32]:
        """Return the mask where it should be now, if it moved on as before."""
        dx, dy = self.velocity * (self.missed + 1)
        move = np.asarray([[1, 0, dx], [0, 1, dy]], np.float64)
        return np.asarray(cv2.warpAffine(self.shape, move, (GRID, GRID)), np.float32)


class Tracks:
    """Numbers for masks, from 1, which stay with their objects from frame to frame.

    Pairs of track and mask are taken best first, by overlap plus likeness: once for pairs that
    overlap, then for the tracks that are left, if an embedding is alike and the size fits. `keep`:
    the frames for which a track that is missed is remembered. What is remembered is bounded by
    the tracks of that many frames.

    Examples:
        >>> tracks = samclip.Tracks()
        >>> cup = scene.segment(boxes=[(172, 17, 410, 308)])
        >>> tracks.update(cup).tolist(), tracks.update(cup).tolist()
        ([1], [1])
    """

    def __init__(self, *, keep: int = 30) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise InputError(
                f"keep must be a whole number of frames, 0 or more; got {brief(keep)}."
            )
        self._keep = keep
        self._tracks: list[_Track] = []
        self._next = 1

    def update(
        self, masks: Masks, embeddings: NDArray[np.float32] | None = None
    ) -> NDArray[np.int64]:
        """Return the number of each of N masks of the next frame: N int64.

        `embeddings`: NxC float32 unit rows, one for each mask; None compares by overlap alone.
        """
        shapes = [_as_shape(mask) for mask in masks.packed]
        numbers = np.zeros(len(shapes), np.int64)
        likeness = self._likeness(embeddings, len(shapes))
        overlap = np.asarray(
            [[_overlap(track.expected(), shape) for shape in shapes] for track in self._tracks],
            np.float64,
        ).reshape(len(self._tracks), len(shapes))
        worth = overlap + LIKENESS_WEIGHT * likeness
        pairs = _best_first(worth, overlap >= LEAST_OVERLAP)
        free_rows = set(range(len(self._tracks))) - {row for row, _ in pairs}
        free_columns = set(range(len(shapes))) - {column for _, column in pairs}
        alike = (likeness >= LEAST_LIKENESS) & self._fits(shapes)
        mask = np.zeros(alike.shape, np.bool_)
        mask[np.ix_(sorted(free_rows), sorted(free_columns))] = True
        pairs += _best_first(likeness, alike & mask)
        for row, column in pairs:
            embedding = None if embeddings is None else embeddings[column]
            self._move(self._tracks[row], shapes[column], embedding)
            numbers[column] = self._tracks[row].number
        matched = {row for row, _ in pairs}
        for row, track in enumerate(self._tracks):
            track.missed += row not in matched
        self._tracks = [track for track in self._tracks if track.missed <= self._keep]
        for column in np.flatnonzero(numbers == 0).tolist():
            if shapes[column].any():
                embedding = None if embeddings is None else embeddings[column]
                self._begin(shapes[column], embedding)
                numbers[column] = self._next - 1
        return np.where(numbers == 0, UNKNOWN, numbers)

    def _likeness(self, embeddings: NDArray[np.float32] | None, count: int) -> NDArray[np.float64]:
        """Return the cosine of each track's embedding with each mask's; 0 where one lacks it."""
        found = np.zeros((len(self._tracks), count))
        if embeddings is not None:
            for row, track in enumerate(self._tracks):
                if track.embedding is not None and track.embedding.shape == embeddings.shape[1:]:
                    found[row] = embeddings @ track.embedding
        return found

    def _fits(self, shapes: list[NDArray[np.float32]]) -> NDArray[np.bool_]:
        areas = np.asarray([shape.sum() for shape in shapes])
        own = np.asarray([track.shape.sum() for track in self._tracks])[:, None]
        ratio = np.minimum(own, areas) / np.maximum(np.maximum(own, areas), 1e-6)
        return np.asarray(ratio >= LEAST_AREA_RATIO)

    def _begin(self, shape: NDArray[np.float32], embedding: NDArray[np.float32] | None) -> None:
        track = _Track(self._next, shape, _centre(shape), np.zeros(2), embedding)
        self._tracks.append(track)
        self._next += 1

    @staticmethod
    def _move(
        track: _Track, shape: NDArray[np.float32], embedding: NDArray[np.float32] | None
    ) -> None:
        centre = _centre(shape)
        step = (centre - track.centre) / (track.missed + 1)
        track.velocity = np.zeros(2) if track.missed else 0.5 * track.velocity + 0.5 * step
        track.shape, track.centre, track.missed = shape, centre, 0
        if embedding is not None and track.embedding is not None:
            mixed = STEADINESS * track.embedding + (1 - STEADINESS) * embedding
            track.embedding = np.asarray(
                mixed / max(float(np.linalg.norm(mixed)), 1e-9), np.float32
            )
        elif embedding is not None:
            track.embedding = embedding


class OtherTracker:
    """The tracker of another package, which takes and returns `supervision.Detections`.

    That is `ByteTrackTracker` and others of the package trackers, with `update`, or those of older
    versions of supervision, with `update_with_detections`. Masks that it leaves out, or gives no
    number, have -1. Raises InputError for an object without such a method.
    """

    def __init__(self, tracker: Any) -> None:
        update = getattr(tracker, "update_with_detections", None) or getattr(
            tracker, "update", None
        )
        if not callable(update):
            raise InputError(
                "a tracker needs a method update, which takes supervision.Detections and returns "
                f"them with tracker_id; got {brief(tracker)}."
            )
        self._update = update

    def update(
        self, masks: Masks, embeddings: NDArray[np.float32] | None = None
    ) -> NDArray[np.int64]:
        """Return the number of each of N masks of the next frame: N int64."""
        del embeddings
        given = masks.to_supervision()
        given.data["samclip_row"] = np.arange(len(masks))
        found = self._update(given)
        numbers = np.full(len(masks), UNKNOWN, np.int64)
        if len(found) and found.tracker_id is not None:
            numbers[np.asarray(found.data["samclip_row"], np.intp)] = found.tracker_id
        return numbers


def _as_shape(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    small = cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _centre(shape: NDArray[np.float32]) -> NDArray[np.float64]:
    rows, columns = np.indices(shape.shape)
    total = max(float(shape.sum()), 1e-6)
    return np.asarray([(columns * shape).sum() / total, (rows * shape).sum() / total])


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the IoU of two masks of shares."""
    either = float(np.maximum(one, other).sum())
    return float(np.minimum(one, other).sum()) / either if either > 0 else 0.0


def _best_first(worth: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return pairs (row, column), each row and column once, the pair of the highest worth first."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(allowed)
    taken: tuple[set[int], set[int]] = (set(), set())
    for place in np.argsort(-worth[rows, columns], kind="stable").tolist():
        row, column = int(rows[place]), int(columns[place])
        if row not in taken[0] and column not in taken[1]:
            pairs.append((row, column))
            taken[0].add(row)
            taken[1].add(column)
    return pairs
