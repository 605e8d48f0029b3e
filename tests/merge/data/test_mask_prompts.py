import pytest
import torch

from samclip.errors import PromptError
from samclip.merge.data.mask_prompts import (
    Prompts,
    box_prompts,
    boxes_from_masks,
    jitter_boxes,
    join_prompts,
    point_prompts,
    points_from_masks,
    sample_points,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rectangle(y0: int, x0: int, y1: int, x1: int, size: int = 16) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_points_and_boxes_have_sams_labels() -> None:
    points = point_prompts(torch.tensor([[3.0, 4.0]]))
    boxes = box_prompts(torch.tensor([[1.0, 2.0, 30.0, 40.0]]))
    assert points.coords.tolist() == [[[3, 4], [0, 0]]]
    assert points.labels.tolist() == [[1, -1]]
    assert boxes.coords.tolist() == [[[1, 2], [30, 40]]]
    assert boxes.labels.tolist() == [[2, 3]]
    both = join_prompts([points, boxes])
    assert both.is_point.tolist() == [True, False]
    assert both.pick(torch.tensor([False, True])).labels.tolist() == [[2, 3]]


def test_prompts_of_other_shapes_are_refused() -> None:
    with pytest.raises(PromptError, match=r"\(1, 2, 2\) and labels \(1, 3\)"):
        Prompts(torch.zeros(1, 2, 2), torch.zeros(1, 3))


def test_points_cover_the_valid_part_and_nothing_else() -> None:
    points = sample_points((100, 300), 2000, seeded())
    assert points.amin() >= 0
    assert (points.amax(dim=0) <= torch.tensor([300.0, 100.0])).all()
    assert torch.allclose(points.mean(dim=0), torch.tensor([150.0, 50.0]), rtol=0.05)
    assert torch.equal(points, sample_points((100, 300), 2000, seeded()))


def test_boxes_end_at_the_far_edge_of_the_last_pixel() -> None:
    masks = torch.stack([rectangle(2, 3, 5, 9), rectangle(0, 0, 16, 16), rectangle(7, 7, 8, 8)])
    boxes = boxes_from_masks(masks, stride=4)
    assert boxes.tolist() == [[12, 8, 36, 20], [0, 0, 64, 64], [28, 28, 32, 32]]


def test_jitter_stays_within_the_image_and_sams_limits() -> None:
    boxes = torch.tensor([[100.0, 100.0, 500.0, 120.0]]).repeat(500, 1)
    moved = jitter_boxes(boxes, (400, 510), 1024, seeded())
    difference = (moved - boxes).abs()
    assert difference[:, 0].amax() == 20  # the limit in pixels
    assert 1 < (moved - boxes)[:, 1].std() < 3  # a tenth of 20 px
    assert moved[:, 2].amax() <= 510
    half = jitter_boxes(boxes, (400, 510), 512, seeded())
    assert (half - boxes).abs()[:, 0].amax() == 10


def test_jittered_boxes_keep_a_pixel() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [63.5, 63.5, 64.0, 64.0]]).repeat(50, 1)
    moved = jitter_boxes(boxes, (64, 64), 64, seeded(), share=10.0)
    assert (moved[:, 2:] - moved[:, :2]).amin() > 0
    assert moved.amin() >= 0
    assert moved.amax() <= 64


def test_points_lie_inside_their_masks_and_everywhere_in_them() -> None:
    masks = torch.stack([rectangle(2, 3, 4, 5), rectangle(10, 0, 11, 1)]).repeat(200, 1, 1)
    points = points_from_masks(masks, 4, seeded())
    assert {tuple(p) for p in points[::2].tolist()} == {
        (14.0, 10.0),
        (18.0, 10.0),
        (14.0, 14.0),
        (18.0, 14.0),
    }
    assert {tuple(p) for p in points[1::2].tolist()} == {(2.0, 42.0)}


@pytest.mark.parametrize("of", ["box", "point"])
def test_empty_masks_are_refused(of: str) -> None:
    masks = torch.stack([rectangle(0, 0, 1, 1), rectangle(0, 0, 0, 0)])
    with pytest.raises(PromptError, match="empty mask"):
        if of == "box":
            boxes_from_masks(masks, 4)
        else:
            points_from_masks(masks, 4, seeded())
