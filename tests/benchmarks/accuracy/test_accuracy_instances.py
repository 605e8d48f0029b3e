from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from made_data import Made, disc, rectangle, stripes, write_coco

from samclip.benchmarks.accuracy import instances
from samclip.benchmarks.accuracy.instances import evaluate_instances, interior_point, iou
from samclip.benchmarks.candidates import Candidate
from samclip.benchmarks.data.coco import CocoPhoto, read_coco
from samclip.benchmarks.rows import Row

PHOTO = stripes(0, 1)
# the fake model answers a box with itself, a point with discs of radius 12, 24 and 48, of which
# it holds the one of 24 for the best
EDGE = 0.02  # of IoU: logits lie 4 pixels apart, so corners and arcs are rough


def photos_of(folder: Path, **objects: list[Made]) -> tuple[CocoPhoto, ...]:
    return read_coco(
        write_coco(folder, {f"{k}.png": (PHOTO, v) for k, v in objects.items()})
    ).photos


def by_place(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row.model, row.measure, row.subset): row for row in rows}


def test_figures_by_hand(tmp_path: Path) -> None:
    small, large = disc(128, 128, 12), disc(128, 128, 48)  # 448 and 7,236 pixels
    half = rectangle(32, 32, 96, 64)  # in a box of twice its size
    photos = photos_of(
        tmp_path,
        a=[Made("red", small), Made("red", half, (32, 32, 96, 96))],
        b=[Made("red", large)],
    )
    rows = by_place(evaluate_instances([Candidate("fake", fake_model())], photos))
    large_box = rows["fake", "box mIoU", "area > 1,024 px"]
    square = np.pi / 4  # of a disc in its box
    assert large_box.value == pytest.approx((0.5 + square) / 2, abs=EDGE)
    assert (large_box.n, large_box.photos) == (2, 2)
    all_boxes = rows["fake", "box mIoU", "all objects"]
    assert all_boxes.value == pytest.approx((0.5 + 2 * square) / 3, abs=EDGE)
    assert all_boxes.n == 3
    discs = photos_of(tmp_path / "discs", a=[Made("red", small), Made("red", large)])
    rows = by_place(evaluate_instances([Candidate("fake", fake_model())], discs))
    point = rows["fake", "point mIoU", "all objects"]
    assert point.value == pytest.approx(((12 / 24) ** 2 + (24 / 48) ** 2) / 2, abs=EDGE)
    best = rows["fake", "point mIoU, best of three", "all objects"]
    assert best.value == pytest.approx(1, abs=3 * EDGE)  # the smallest disc is a few logits wide


def test_the_point_s_mask_is_the_one_that_the_runtime_answers(tmp_path: Path) -> None:
    truth = disc(100, 100, 30)
    (photo,) = photos_of(tmp_path, a=[Made("red", truth)])
    model = fake_model()
    answer = model.encode(PHOTO).segment(points=[interior_point(truth)])
    rows = by_place(evaluate_instances([Candidate("fake", model)], [photo]))
    assert rows["fake", "point mIoU", "all objects"].value == iou(answer.masks[0], truth)


def test_a_second_model_is_compared_on_the_same_photos(tmp_path: Path) -> None:
    photos = photos_of(tmp_path, a=[Made("red", rectangle(32, 32, 96, 96))])
    models = [Candidate("one", fake_model()), Candidate("two", fake_model())]
    rows = by_place(evaluate_instances(models, photos))
    ratio = rows["one / two", "box mIoU", "all objects"]
    assert (ratio.value, ratio.unit) == (1.0, "ratio")
    assert rows["two", "box mIoU", "all objects"].value == pytest.approx(1, abs=EDGE)
    assert all(candidate.model.encoder_passes == 1 for candidate in models)


def test_parts_without_objects_have_no_row(tmp_path: Path) -> None:
    photos = photos_of(tmp_path, a=[Made("red", rectangle(0, 0, 32, 32))])  # 1,024 pixels exactly
    rows = evaluate_instances([Candidate("fake", fake_model())], photos)
    assert {row.subset for row in rows} == {"all objects"}


def test_prompts_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Made("red", rectangle(16 * i, 0, 16 * i + 16, 64 + 16 * i)) for i in range(5)]
    photos = photos_of(tmp_path, a=made)
    whole = evaluate_instances([Candidate("fake", fake_model())], photos)
    monkeypatch.setattr(instances, "PROMPTS_AT_ONCE", 2)
    assert evaluate_instances([Candidate("fake", fake_model())], photos) == whole


@pytest.mark.parametrize(
    ("mask", "point"),
    [
        (rectangle(10, 20, 21, 61), (15.5, 25.5)),  # 11 wide: 5 rows in from the top
        (rectangle(0, 0, 256, 256), (127.5, 127.5)),  # the photo's border is an outline
        (rectangle(7, 9, 8, 10), (7.5, 9.5)),
        (disc(60.5, 80.5, 20) & ~rectangle(0, 0, 61, 256), (70.5, 80.5)),
    ],
)
def test_the_most_interior_point(mask: np.ndarray, point: tuple[float, float]) -> None:
    x, y = interior_point(mask)
    assert mask[int(y), int(x)]
    assert (x, y) == pytest.approx(point, abs=2)  # pixels: near the middle many are as far inside


def test_iou_by_hand() -> None:
    assert iou(rectangle(0, 0, 10, 10), rectangle(5, 0, 15, 10)) == 50 / 150
    assert iou(rectangle(0, 0, 0, 0), rectangle(0, 0, 0, 0)) == 0
