"""Prompts for a mask teacher, and for named instances."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from samclip.merge.data.annotations import Instances, no_instances
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import MaskAnswer
from samclip.merge.training.prompted_masks import (
    PromptedTarget,
    prompt_instances,
    prompt_teacher,
)

GRID = 8
SIDE = 4 * GRID  # of low-resolution masks, 128 px of the input


class Squares:
    """Answers a point left of `blind` with a square of 6 x 6 pixels, and a box with the box."""

    fingerprint, image_size = "squares", 16 * GRID

    def __init__(self, blind: float = 1e9) -> None:
        self.blind = blind
        self.asked: list[Prompts] = []

    def masks(self, embeddings: Tensor, prompts: Prompts) -> MaskAnswer:
        self.asked.append(prompts)
        logits = torch.full((len(prompts), 4, SIDE, SIDE), -5.0)
        for index, (coords, labels) in enumerate(zip(prompts.coords, prompts.labels, strict=True)):
            (x0, y0), (x1, y1) = coords.tolist() if labels[0] == 2 else [coords[0].tolist()] * 2
            if labels[0] == 1 and x0 >= self.blind:
                continue
            spread = 0 if labels[0] == 2 else 12
            columns = slice(max(0, int(x0 - spread) // 4), int(x1 + spread) // 4)
            rows = slice(max(0, int(y0 - spread) // 4), int(y1 + spread) // 4)
            logits[index, 2, rows, columns] = 5.0
        iou = torch.tensor([0.9, 0.1, 0.8, 0.2]).expand(len(prompts), -1)
        return MaskAnswer(logits, iou)


def asked(teacher: Squares, boxes: float, size: tuple[int, int] = (128, 128)) -> PromptedTarget:
    picture = PixelBatch.of([torch.zeros(3, *size)], 16 * GRID)
    embeddings = torch.zeros(1, 256, GRID, GRID)
    return prompt_teacher(
        teacher=teacher,
        picture=picture,
        embeddings=embeddings,
        count=8,
        boxes=boxes,
        generator=Generator().manual_seed(0),
    )


def test_points_alone() -> None:
    teacher = Squares()
    target = asked(teacher, boxes=0.0, size=(60, 128))
    assert len(teacher.asked) == 1
    assert target.prompts.is_point.all()
    assert target.prompts.coords[:, 0, 1].max() < 60  # within the picture
    assert target.answer.logits.shape == (8, 4, SIDE, SIDE)
    assert target.valid.sum() == 15 * SIDE


def test_a_share_of_the_prompts_are_boxes_of_what_is_seen() -> None:
    teacher = Squares()
    target = asked(teacher, boxes=0.5)
    is_box = target.prompts.labels[:, 0] == 2
    assert is_box.tolist() == [True] * 4 + [False] * 4
    points, corners = teacher.asked
    sides = corners.coords[:, 1] - corners.coords[:, 0]
    assert (sides > 8).all()  # boxes of 24 px, their edges moved by some 2
    middle = corners.coords.mean(dim=1)
    assert ((middle - points.coords[:4, 0]).abs() < 8).all()  # around the points drawn
    assert torch.equal(target.prompts.coords[4:], points.coords[4:])
    # Each answer is to its own prompt.
    again = teacher.masks(torch.zeros(1), target.prompts)
    assert torch.equal(again.logits, target.answer.logits)


def test_where_nothing_is_seen_the_point_stays() -> None:
    target = asked(Squares(blind=40.0), boxes=1.0)
    is_box = target.prompts.labels[:, 0] == 2
    assert 0 < int(is_box.sum()) < 8
    assert (target.prompts.coords[~is_box][:, 0, 0] >= 40).all()
    assert len(target.answer.logits) == len(target.prompts) == 8
    assert not (asked(Squares(blind=0.0), boxes=1.0).prompts.labels[:, 0] == 2).any()


def test_the_same_generator_asks_the_same() -> None:
    first, second = asked(Squares(), 0.5), asked(Squares(), 0.5)
    assert torch.equal(first.prompts.coords, second.prompts.coords)


@pytest.mark.parametrize(("size", "filled"), [((16, 16), (4, 4)), ((17, 13), (5, 4))])
def test_pixels_that_hold_any_of_the_picture_are_valid(
    size: tuple[int, int], filled: tuple[int, int]
) -> None:
    valid = asked(Squares(), boxes=0.0, size=size).valid
    assert valid.shape == (SIDE, SIDE)
    assert valid[: filled[0], : filled[1]].all()
    assert valid.sum() == filled[0] * filled[1]


def blocks() -> Instances:
    """Three instances in a square of 64 px."""
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 8:, :8] = masks[2, 2:4, 10:15] = True
    boxes = torch.tensor([[0, 0, 16, 16], [0, 32, 32, 64], [40, 8, 60, 16]]).float()
    return Instances(masks, boxes, torch.tensor([0, 2, -1]))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_prompts_take_turns(count: int) -> None:
    prompted = prompt_instances(blocks(), count, 0.5, torch.Generator().manual_seed(0))
    assert prompted is not None
    assert len(prompted.prompts) == len(prompted.chosen) == count
    times = torch.bincount(prompted.chosen, minlength=3)
    assert int(times.max() - times.min()) <= 1
    half = count // 2 if count != 3 else 2  # half of 3 is rounded to the even 2
    corners = prompted.prompts.coords[:half].reshape(half, 4)
    assert torch.equal(corners, prompted.boxes[:half])
    for chosen, prompt in zip(prompted.chosen[half:], prompted.prompts.coords[half:], strict=True):
        x, y = (int(c) // 4 for c in prompt[0])
        assert prompted.instances.masks[chosen, y, x]
    assert torch.equal(prompted.labels, blocks().labels[prompted.chosen])


def test_a_picture_without_instances_has_no_prompts() -> None:
    assert prompt_instances(no_instances(64), 4, 0.5, torch.Generator()) is None
