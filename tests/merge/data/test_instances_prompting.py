import pytest
import torch
from torch import Generator, Tensor

from samclip.merge.data.instances import PromptedTarget, ask, best_masks, valid_pixels
from samclip.merge.data.mask_prompts import Prompts
from samclip.merge.teachers.base import MaskAnswer

GRID = 8
SIDE = 4 * GRID  # of low-resolution masks, 128 px of the input


class Squares:
    """Sees around a point left of `blind` a square of 6 x 6 pixels, in a box the box; else none."""

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
    embeddings = torch.zeros(1, 256, GRID, GRID)
    return ask(teacher, embeddings, size, 8, boxes, Generator().manual_seed(0))


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


def test_the_best_of_the_ambiguous_outputs() -> None:
    logits = torch.stack([torch.full((2, 2), float(n) - 1.5) for n in range(4)])[None]
    for best, expected in ((1, False), (2, True), (3, True)):
        iou = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
        iou[0, best] = 0.5
        chosen = best_masks(MaskAnswer(logits, iou))
        assert chosen.shape == (1, 2, 2)
        assert bool(chosen.all()) is expected


@pytest.mark.parametrize(("size", "filled"), [((16, 16), (4, 4)), ((17, 13), (5, 4))])
def test_pixels_that_hold_any_of_the_picture(
    size: tuple[int, int], filled: tuple[int, int]
) -> None:
    valid = valid_pixels(size, 8, torch.device("cpu"))
    assert valid[: filled[0], : filled[1]].all()
    assert valid.sum() == filled[0] * filled[1]
