from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from made_data import NAMES, Made, disc, rectangle, stripes, write_coco
from region_fakes import region_model

from samclip.benchmarks.accuracy import instances
from samclip.benchmarks.accuracy.instances import (
    correction,
    evaluate_instances,
    interior_point,
    iou,
)
from samclip.benchmarks.data.coco import Categories, CocoPhoto, read_coco
from samclip.benchmarks.records import Row
from samclip.benchmarks.scores import Candidate
from samclip.runtime.model import Model

PHOTO = stripes(0, 1)
# the fake model answers a box with itself, a point with discs of radius 12, 24 and 48, of which
# it holds the one of 24 for the best
CATEGORIES = Categories((1, 2, 3), NAMES, (None, None, None), federated=False)
EDGE = 0.02  # of IoU: logits lie 4 pixels apart, so corners and arcs are rough


def photos_of(folder: Path, **objects: list[Made]) -> tuple[CocoPhoto, ...]:
    return read_coco(
        write_coco(folder, {f"{k}.png": (PHOTO, v) for k, v in objects.items()})
    ).photos


def measure(photos: Sequence[CocoPhoto], model: Model | None = None) -> list[Row]:
    return evaluate_instances([Candidate("fake", model or fake_model())], photos, CATEGORIES)


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
    rows = by_place(measure(photos))
    large_box = rows["fake", "box mIoU", "area > 1,024 px"]
    square = np.pi / 4  # of a disc in its box
    assert large_box.value == pytest.approx((0.5 + square) / 2, abs=EDGE)
    assert (large_box.n, large_box.photos) == (2, 2)
    all_boxes = rows["fake", "box mIoU", "all objects"]
    assert all_boxes.value == pytest.approx((0.5 + 2 * square) / 3, abs=EDGE)
    assert all_boxes.n == 3
    discs = photos_of(tmp_path / "discs", a=[Made("red", small), Made("red", large)])
    rows = by_place(measure(discs))
    point = rows["fake", "point mIoU", "all objects"]
    assert point.value == pytest.approx(((12 / 24) ** 2 + (24 / 48) ** 2) / 2, abs=EDGE)
    best = rows["fake", "point mIoU, best of three", "all objects"]
    assert best.value == pytest.approx(1, abs=3 * EDGE)  # the smallest disc is a few logits wide


def test_the_point_s_mask_is_the_one_that_the_runtime_answers(tmp_path: Path) -> None:
    truth = disc(100, 100, 30)
    (photo,) = photos_of(tmp_path, a=[Made("red", truth)])
    model = fake_model()
    answer = model.encode(PHOTO).segment(points=[interior_point(truth)])
    rows = by_place(measure([photo], model))
    assert rows["fake", "point mIoU", "all objects"].value == iou(answer.masks[0], truth)


def test_a_second_model_is_compared_on_the_same_photos(tmp_path: Path) -> None:
    photos = photos_of(tmp_path, a=[Made("red", rectangle(32, 32, 96, 96))])
    models = [Candidate("one", fake_model()), Candidate("two", fake_model())]
    rows = by_place(evaluate_instances(models, photos, CATEGORIES))
    ratio = rows["one / two", "box mIoU", "all objects"]
    assert (ratio.value, ratio.unit) == (1.0, "ratio")
    assert rows["two", "box mIoU", "all objects"].value == pytest.approx(1, abs=EDGE)
    assert all(candidate.model.encoder_passes == 1 for candidate in models)


def test_parts_without_objects_have_no_row(tmp_path: Path) -> None:
    photos = photos_of(tmp_path, a=[Made("red", rectangle(0, 0, 32, 32))])  # 1,024 pixels exactly
    rows = measure(photos)
    parts = {row.subset for row in rows if row.measure == "box mIoU"}
    assert parts == {"all objects", "small objects"}


def test_prompts_go_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Made("red", rectangle(16 * i, 0, 16 * i + 16, 64 + 16 * i)) for i in range(5)]
    photos = photos_of(tmp_path, a=made)
    whole = measure(photos)
    monkeypatch.setattr(instances, "PROMPTS_AT_ONCE", 2)
    assert measure(photos) == whole


def test_iou_by_hand() -> None:
    assert iou(rectangle(0, 0, 10, 10), rectangle(5, 0, 15, 10)) == 50 / 150
    assert iou(rectangle(0, 0, 0, 0), rectangle(0, 0, 0, 0)) == 0


def test_sizes_are_coco_s(tmp_path: Path) -> None:
    sides = (31, 33, 95, 97)  # what lies on a bound counts on both sides of it in COCO's AP
    made = [Made("red", rectangle(0, 0, side, side)) for side in sides]
    rows = by_place(measure(photos_of(tmp_path, a=made)))
    parts = ("small objects", "medium objects", "large objects")
    assert [rows["fake", "box mIoU", part].n for part in parts] == [1, 2, 1]
    assert [rows["fake", "box AP", part].n for part in parts] == [1, 2, 1]


def test_ap_by_hand(tmp_path: Path) -> None:
    half = rectangle(32, 32, 96, 56)  # 3/8 of its box: below every threshold
    photos = photos_of(
        tmp_path, a=[Made("red", rectangle(128, 0, 256, 128)), Made("blue", half, (32, 32, 96, 96))]
    )
    rows = by_place(measure(photos))
    ap = rows["fake", "box AP", "all objects"]
    assert ap.value == pytest.approx((1 + 0) / 2, abs=0.05)  # corners are rough
    assert rows["fake", "box AP50", "all objects"].value == pytest.approx(0.5)
    assert (ap.low, ap.high, ap.n, ap.photos) == (None, None, 2, 1)


def test_one_refinement_by_hand(tmp_path: Path) -> None:
    truth = disc(128, 128, 12)
    photos = photos_of(tmp_path, a=[Made("red", truth)])
    model = fake_model()
    rows = by_place(measure(photos, model))
    # the point's first answer is a disc of radius 24, whose ring is too much. The click lies in the
    # ring; the fake then takes the one foreground point, with the first logits added to its own:
    # the same disc again, of twice the steepness
    first, second = (
        rows["fake", f"{kind} mIoU", "all objects"] for kind in ("point", "point + click")
    )
    assert first.value == second.value == pytest.approx(0.25, abs=EDGE)
    scene = model.encode(PHOTO)
    boxed = scene.segment(boxes=[photos[0].objects[0].box])
    again = scene.segment(boxes=[photos[0].objects[0].box], mask=boxed.low_res_logits)
    assert rows["fake", "box again mIoU", "all objects"].value == iou(again.masks[0], truth)


def test_a_click_moves_the_answer(tmp_path: Path) -> None:
    truth = disc(64, 128, 24) | disc(192, 128, 40)  # the point is the right disc's middle
    photos = photos_of(tmp_path, a=[Made("red", truth)])
    model = fake_model()
    rows = by_place(measure(photos, model))
    scene = model.encode(PHOTO)
    first = scene.segment(points=[interior_point(truth)])
    click = correction(first.masks[0], truth)
    assert click is not None
    assert click.label == 1
    second = scene.segment(
        points=[interior_point(truth), click.point],
        labels=[1, 1],
        mask=first.low_res_logits,
    )
    found = rows["fake", "point + click mIoU", "all objects"].value
    assert found == iou(second.masks[0], truth)
    assert found != rows["fake", "point mIoU", "all objects"].value


def test_what_fits_to_the_pixel_is_not_clicked(tmp_path: Path) -> None:
    model = fake_model()
    answer = model.encode(PHOTO).segment(boxes=[(32, 32, 96, 96)]).masks[0]
    photos = photos_of(tmp_path, a=[Made("red", answer, (32, 32, 96, 96))])
    rows = by_place(measure(photos, model))
    assert rows["fake", "box mIoU", "all objects"].value == 1
    assert rows["fake", "box + click mIoU", "all objects"].value == 1


def test_without_refinement_there_are_first_answers_alone(tmp_path: Path) -> None:
    photos = photos_of(tmp_path, a=[Made("red", rectangle(32, 32, 96, 96))])
    candidates = [Candidate("fake", fake_model())]
    rows = evaluate_instances(candidates, photos, CATEGORIES, refine=False)
    assert {row.measure for row in rows if "mIoU" in row.measure} == {
        "box mIoU",
        "point mIoU",
        "point mIoU, best of three",
    }


def test_a_decoder_of_one_mask_answers_points_with_it(tmp_path: Path) -> None:
    photos = photos_of(tmp_path, a=[Made("red", disc(128, 128, 48))])
    rows = by_place(measure(photos, region_model()))
    single = rows["fake", "point mIoU", "all objects"]  # the fake's first mask, of radius 24
    assert single.value == pytest.approx((24 / 48) ** 2, abs=EDGE)
    assert ("fake", "point + click mIoU", "all objects") in rows
    assert not any("best of three" in measure for _, measure, _ in rows)
