from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_data import SIDE, rectangle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from samclip.benchmarks.accuracy.average_precision import Find, average_precision
from samclip.benchmarks.data.coco import Categories, CocoObject, CocoPhoto
from samclip.runtime.pixels.mask_ops import encode_rle

COCO_LIKE = Categories((1, 2, 3), ("red", "green", "blue"), (None, None, None), federated=False)
LVIS_LIKE = Categories((1, 2, 3), ("red", "green", "blue"), ("r", "c", "f"), federated=True)


def thing(category: int, mask: np.ndarray) -> CocoObject:
    area = int(mask.sum())
    return CocoObject(category, (0.0, 0.0, 1.0, 1.0), encode_rle(mask), area, area)


def photo_of(*objects: CocoObject, crowds: Sequence[CocoObject] = (), **known: set) -> CocoPhoto:
    sets = {name: frozenset(places) for name, places in known.items()}
    return CocoPhoto(Path("x"), (SIDE, SIDE), objects, tuple(crowds), **sets)


def find(photo: int, category: int, score: float, mask: np.ndarray) -> Find:
    return Find(photo, category, score, encode_rle(mask))


def figures(
    photos: Sequence[CocoPhoto], finds: Sequence[Find], categories: Categories = COCO_LIKE
) -> dict[tuple[str, str], float]:
    found = average_precision(photos, categories, finds)
    return {(one.measure, one.subset): one.value for one in found}


LEFT, RIGHT, BELOW = (
    rectangle(0, 0, 64, 64),
    rectangle(128, 0, 192, 64),
    rectangle(0, 128, 64, 192),
)


def test_by_hand() -> None:
    photos = [photo_of(thing(0, LEFT), thing(0, RIGHT))]
    finds = [find(0, 0, 0.9, LEFT), find(0, 0, 0.8, BELOW), find(0, 0, 0.7, RIGHT)]
    # precision 1 up to recall 0.5, which are 51 of the 101 recalls; 2/3 beyond
    expected = (51 + 50 * 2 / 3) / 101
    found = figures(photos, finds)
    assert found["AP", "all objects"] == pytest.approx(expected)
    assert found["AP", "medium objects"] == pytest.approx(expected)  # 4,096 pixels each
    assert set(found) == {
        ("AP", "all objects"),
        ("AP50", "all objects"),
        ("AP75", "all objects"),
        ("AP", "medium objects"),
    }


def test_thresholds_by_hand() -> None:
    photos = [photo_of(thing(0, rectangle(0, 0, 100, 100)))]
    finds = [find(0, 0, 1, rectangle(0, 0, 100, 72))]  # IoU 0.72: right up to the threshold 0.7
    found = figures(photos, finds)
    assert found["AP", "all objects"] == pytest.approx(0.5)
    assert found["AP50", "all objects"] == pytest.approx(1)
    assert found["AP75", "all objects"] == 0


def test_categories_count_alike_and_only_those_with_objects() -> None:
    photos = [photo_of(thing(0, LEFT), thing(1, RIGHT)), photo_of(thing(1, LEFT))]
    finds = [find(0, 0, 0.5, LEFT), find(1, 2, 0.9, BELOW)]  # there is no object of category 2
    found = figures(photos, finds)
    assert found["AP", "all objects"] == pytest.approx(0.5)


def test_crowds_are_neither_found_nor_missed() -> None:
    photos = [photo_of(thing(0, LEFT), crowds=[thing(0, RIGHT)])]
    finds = [find(0, 0, 0.9, RIGHT), find(0, 0, 0.5, LEFT)]
    assert figures(photos, finds)["AP", "all objects"] == pytest.approx(1)
    plain = [photo_of(thing(0, LEFT))]
    assert figures(plain, finds)["AP", "all objects"] == pytest.approx(0.5)


def test_lvis_counts_no_find_of_what_nobody_looked_for() -> None:
    seen = photo_of(thing(0, LEFT))
    finds = [find(0, 0, 0.5, LEFT), find(1, 0, 0.9, BELOW)]
    unknown, known, partly = photo_of(), photo_of(absent={0}), photo_of(incomplete={0})
    assert figures([seen, unknown], finds, LVIS_LIKE)["AP", "all objects"] == pytest.approx(1)
    assert figures([seen, known], finds, LVIS_LIKE)["AP", "all objects"] == pytest.approx(0.5)
    assert figures([seen, partly], finds, LVIS_LIKE)["AP", "all objects"] == pytest.approx(1)
    assert figures([seen, unknown], finds)["AP", "all objects"] == pytest.approx(0.5)


def test_lvis_forgives_unmatched_finds_where_not_all_objects_are_annotated() -> None:
    finds = [find(0, 0, 0.9, BELOW), find(0, 0, 0.5, LEFT)]
    partly = photo_of(thing(0, LEFT), incomplete={0})
    other = photo_of(thing(0, LEFT), incomplete={1})
    assert figures([partly], finds, LVIS_LIKE)["AP", "all objects"] == pytest.approx(1)
    assert figures([other], finds, LVIS_LIKE)["AP", "all objects"] == pytest.approx(0.5)


def test_lvis_s_frequencies() -> None:
    photos = [photo_of(thing(0, LEFT), thing(1, RIGHT))]
    found = figures(photos, [find(0, 1, 0.9, RIGHT)], LVIS_LIKE)
    assert found["AP", "all objects"] == pytest.approx(0.5)
    assert found["AP", "rare categories"] == 0
    assert found["AP", "common categories"] == pytest.approx(1)
    assert ("AP", "frequent categories") not in found


def test_nothing_found_is_zero_and_nothing_there_is_no_figure() -> None:
    assert figures([photo_of(thing(0, LEFT))], [])["AP", "all objects"] == 0
    assert figures([photo_of()], []) == {}


def test_figures_are_those_of_pycocotools_over_everything_at_once() -> None:
    random = np.random.default_rng(5)
    photos, finds = [], []
    for number in range(6):
        objects = [thing(int(random.integers(3)), _some(random)) for _ in range(5)]
        photos.append(photo_of(*objects[:4], crowds=objects[4:]))
        for found in objects:
            mask = found.mask()
            mask[:, : random.integers(0, 120)] = False
            if mask.any():
                category = found.category if random.random() < 0.8 else int(random.integers(3))
                finds.append(find(number, category, float(random.random()), mask))
    found = figures(photos, finds)
    stats = _pycocotools(photos, finds)
    names = ("all objects", "small objects", "medium objects", "large objects")
    assert found["AP", "all objects"] == pytest.approx(stats[0], abs=1e-12)
    assert found["AP50", "all objects"] == pytest.approx(stats[1], abs=1e-12)
    assert found["AP75", "all objects"] == pytest.approx(stats[2], abs=1e-12)
    for name, value in zip(names[1:], stats[3:6], strict=True):
        assert found.get(("AP", name), -1) == pytest.approx(value, abs=1e-12)
    assert 0.05 < stats[0] < 0.95


def _some(random: np.random.Generator) -> np.ndarray:
    x, y = random.integers(0, 150, 2)
    width, height = random.integers(8, 106, 2)
    return rectangle(x, y, x + width, y + height)


def _pycocotools(photos: Sequence[CocoPhoto], finds: Sequence[Find]) -> np.ndarray:
    truth, given = [], []
    for number, photo in enumerate(photos):
        for crowd, group in ((0, photo.objects), (1, photo.crowds)):
            truth += [
                {"image_id": number, "category_id": one.category, "segmentation": one.rle}
                | {"area": one.area, "iscrowd": crowd, "bbox": [0, 0, 1, 1]}
                for one in group
            ]
    given = [
        {"image_id": one.photo, "category_id": one.category, "segmentation": one.rle}
        | {"score": one.score}
        for one in finds
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": n, "height": SIDE, "width": SIDE} for n in range(len(photos))],
            "categories": [{"id": n} for n in range(3)],
            "annotations": [{"id": n, **one} for n, one in enumerate(truth, 1)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(given), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats
