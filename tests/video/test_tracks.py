"""Numbers that stay with objects: crossings, gaps, new objects, and trackers of other packages."""

from __future__ import annotations

import numpy as np
import pytest
from watch_fakes import SIZE, masks_of

import samclip
from samclip.video.tracks import OtherTracker, Tracks

IMAGE = np.zeros((*SIZE, 3), np.uint8)
RED, BLUE = np.asarray([1, 0], np.float32), np.asarray([0, 1], np.float32)


def box(x: int, y: int = 10, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[y : y + side, max(0, x) : max(0, x + side)] = True
    return mask


def test_two_objects_that_cross_keep_their_numbers() -> None:
    tracks = Tracks()
    for step in range(0, 50, 2):
        masks = masks_of(IMAGE, [box(step), box(50 - step, 14)])
        numbers = tracks.update(masks, np.stack([RED, BLUE]))
        assert numbers.tolist() == [1, 2]


def test_movement_tells_objects_apart_without_embeddings() -> None:
    tracks = Tracks()
    for step in range(0, 40, 2):
        assert tracks.update(masks_of(IMAGE, [box(step, 5), box(44 - step, 20)])).tolist() == [1, 2]


def test_an_object_that_was_hidden_gets_its_number_back_elsewhere() -> None:
    tracks = Tracks(keep=5)
    both = np.stack([RED, BLUE])
    assert tracks.update(masks_of(IMAGE, [box(0), box(40)]), both).tolist() == [1, 2]
    for _ in range(4):
        assert tracks.update(masks_of(IMAGE, [box(40)]), BLUE[None]).tolist() == [2]
    assert tracks.update(masks_of(IMAGE, [box(20, 30), box(40)]), both).tolist() == [1, 2]


def test_an_object_that_is_gone_for_long_is_forgotten() -> None:
    tracks = Tracks(keep=2)
    tracks.update(masks_of(IMAGE, [box(0)]), RED[None])
    for _ in range(3):
        tracks.update(masks_of(IMAGE, []), np.zeros((0, 2), np.float32))
    assert tracks.update(masks_of(IMAGE, [box(0)]), RED[None]).tolist() == [2]
    assert len(tracks._tracks) == 1


def test_another_size_or_look_is_another_object() -> None:
    tracks = Tracks()
    tracks.update(masks_of(IMAGE, [box(0)]), RED[None])
    tracks.update(masks_of(IMAGE, []), np.zeros((0, 2), np.float32))
    assert tracks.update(masks_of(IMAGE, [box(40, side=4)]), RED[None]).tolist() == [2]
    assert tracks.update(masks_of(IMAGE, [box(20, 30)]), BLUE[None]).tolist() == [3]


def test_an_empty_mask_has_no_track() -> None:
    assert Tracks().update(masks_of(IMAGE, [np.zeros(SIZE, np.bool_)])).tolist() == [-1]


def test_a_tracker_of_another_package_may_reorder_and_leave_out() -> None:
    class Reversing:
        def update(self, detections):
            chosen = detections[np.asarray([2, 0])]
            chosen.tracker_id = np.asarray([7, 5])
            return chosen

    numbers = OtherTracker(Reversing()).update(masks_of(IMAGE, [box(0), box(20), box(40)]))
    assert numbers.tolist() == [5, -1, 7]


@pytest.mark.parametrize("keep", [-1, 2.5, True, None])
def test_what_is_no_number_of_frames(keep: object) -> None:
    with pytest.raises(samclip.InputError, match="keep"):
        Tracks(keep=keep)  # type: ignore[arg-type]
