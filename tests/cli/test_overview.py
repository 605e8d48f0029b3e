"""The masks that a demo shows without prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samclip.cli.overview import MOST_MASKS, look_over, prominent
from samclip.runtime.pixels.mask_ops import PackedMasks
from samclip.runtime.results.masks import AutoMasks

SIZE = (100, 100)


def auto_masks(*boxes: tuple[int, int, int, int]) -> AutoMasks:
    masks = np.zeros((len(boxes), *SIZE), np.bool_)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    count = len(boxes)
    return AutoMasks(
        packed=PackedMasks.pack(masks, SIZE),
        scores=np.ones(count, np.float32),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        prompt_index=np.arange(count),
        image=np.zeros((*SIZE, 3), np.uint8),
        points=np.zeros((count, 2)),
        stability_scores=np.ones(count, np.float32),
        crop_boxes=np.zeros((count, 4), np.int64),
    )


def test_large_masks_that_stand_apart_are_chosen() -> None:
    masks = auto_masks(
        (0, 0, 100, 100),  # the background
        (0, 0, 5, 5),  # a crumb
        (0, 0, 40, 40),
        (10, 10, 30, 30),  # a part of it
        (60, 60, 99, 99),
        (38, 0, 48, 40),  # touches it by a fifth
    )
    assert prominent(masks).tolist() == [2, 4, 5]


def test_no_more_than_a_few_are_chosen() -> None:
    masks = auto_masks(*((10 * i, 0, 10 * i + 9, 20) for i in range(8)))
    assert len(prominent(masks)) == MOST_MASKS
    assert len(prominent(auto_masks())) == 0


class OneScene:
    """Records the tasks it is asked for; always finds the same masks."""

    def __init__(self, found: AutoMasks) -> None:
        self.found, self.asked, self.size = found, [], SIZE

    def __getattr__(self, task: str) -> Any:
        def answer(*arguments: Any, **options: Any) -> Any:
            self.asked.append((task, options))
            return self.found

        return answer


def asked(scene: OneScene) -> list[str]:
    return [task for task, _ in scene.asked]


@pytest.mark.parametrize("boxes", [None, ()])
def test_without_boxes_everything_is_searched(boxes: Any) -> None:
    scene = OneScene(auto_masks((0, 0, 40, 40), (0, 0, 100, 100)))
    answer = look_over(scene, ["a"], boxes)  # type: ignore[arg-type]
    assert asked(scene) == ["classify", "everything", "semantic"]
    assert len(answer.masks) == 1


def test_when_nothing_is_found_the_middle_is_shown() -> None:
    scene = OneScene(auto_masks())
    look_over(scene, ["a"])  # type: ignore[arg-type]
    assert asked(scene) == ["classify", "everything", "segment", "semantic"]
    assert scene.asked[2][1]["points"] == [(50, 50)]


def test_boxes_are_segmented() -> None:
    scene = OneScene(auto_masks((0, 0, 40, 40)))
    look_over(scene, ["a"], [(1, 2, 3, 4)])  # type: ignore[arg-type]
    assert asked(scene) == ["classify", "segment", "semantic"]
    np.testing.assert_array_equal(scene.asked[1][1]["boxes"], [[1, 2, 3, 4]])
