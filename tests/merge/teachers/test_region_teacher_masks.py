import dataclasses

import pytest
import torch
from told_masks import EMBEDDINGS, SIDE, Told

from samclip.errors import InputError
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.region_teacher import RegionOptions, find_regions, grid_points, mask_iou

OPTIONS = RegionOptions(points_per_side=2)


def picture(height: int = SIDE, width: int = SIDE, side: int = SIDE) -> PixelBatch:
    return PixelBatch.of([torch.zeros(3, height, width)], side)


def found(
    *boxes: tuple[int, int, int, int, float], options: RegionOptions = OPTIONS
) -> list[float]:
    """The predicted IoU of the regions kept, to two places."""
    regions = find_regions(Told(*boxes), picture(), EMBEDDINGS, options)
    return [round(value, 2) for value in regions.iou.tolist()]


def test_masks_come_best_first_and_output_0_counts_not() -> None:
    boxes = ((0, 0, 4, 4, 0.85), (8, 8, 12, 12, 0.95), (0, 8, 4, 12, 0.9))
    regions = find_regions(Told(*boxes), picture(), EMBEDDINGS, OPTIONS)
    assert [round(value, 2) for value in regions.iou.tolist()] == [0.95, 0.9, 0.85]
    assert regions.masks.dtype == torch.bool
    assert regions.masks.shape == (3, 16, 16)
    assert regions.masks[0].nonzero().min() == 8


def test_unsure_small_and_large_masks_go() -> None:
    options = dataclasses.replace(OPTIONS, least_area=4 / 256, most_area=64 / 256)
    assert found((0, 0, 4, 4, 0.79), options=options) == []
    assert found((0, 0, 3, 1, 0.9), (4, 4, 8, 5, 0.9), options=options) == [0.9]
    assert found((0, 0, 8, 8, 0.9), (0, 0, 13, 5, 0.95), options=options) == [0.9]


def test_doubles_go_and_the_better_one_stays() -> None:
    # 8 x 8 and 7 x 8 share 56 of 64: 0.875; 8 x 8 and 5 x 8 share 40 of 64: 0.625.
    assert found((0, 0, 7, 8, 0.85), (0, 0, 8, 8, 0.95)) == [0.95]
    assert found((0, 0, 5, 8, 0.85), (0, 0, 8, 8, 0.95)) == [0.95, 0.85]


def test_no_more_than_the_most_are_kept() -> None:
    boxes = [(x, y, x + 2, y + 2, 0.9) for x in (0, 4, 8) for y in (0, 4)]
    assert len(found(*boxes)) == 6
    assert len(found(*boxes, options=dataclasses.replace(OPTIONS, most=4))) == 4


def test_masks_and_areas_are_those_of_the_picture_without_padding() -> None:
    half = picture(height=32)  # 16 x 8 mask pixels
    teacher = Told((0, 0, 8, 16, 0.9))  # half of the square; of the picture, 64 of 128
    regions = find_regions(teacher, half, EMBEDDINGS, dataclasses.replace(OPTIONS, most_area=0.5))
    assert len(regions) == 1
    assert int(regions.masks.sum()) == 64
    assert not regions.masks[0, 8:].any()
    assert teacher.asked[0].coords[:, 0].tolist() == [[16, 8], [48, 8], [16, 24], [48, 24]]


def test_points_are_in_pixels_of_the_teachers_square() -> None:
    teacher = Told()
    find_regions(teacher, picture(16, 32, side=32), EMBEDDINGS, OPTIONS)
    assert teacher.asked[0].coords[:, 0].tolist() == [[16, 8], [48, 8], [16, 24], [48, 24]]


def test_one_picture_at_a_time() -> None:
    two = PixelBatch.of([torch.zeros(3, 8, 8)] * 2, SIDE)
    with pytest.raises(InputError, match="regions of 2 pictures"):
        find_regions(Told(), two, EMBEDDINGS, OPTIONS)


def test_grid_points_are_cell_centres() -> None:
    assert grid_points(1).tolist() == [[0.5, 0.5]]
    assert grid_points(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_mask_iou_by_hand() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3] = True, True
    assert torch.allclose(mask_iou(masks), torch.tensor([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    "change",
    [
        {"points_per_side": 0},
        {"most": 0},
        {"least_area": 0.7},
        {"most_area": 1.1},
        {"overlap": 0.0},
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="RegionOptions"):
        dataclasses.replace(OPTIONS, **change)  # type: ignore[arg-type]
