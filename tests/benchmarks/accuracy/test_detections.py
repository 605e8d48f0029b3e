from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_model
from made_data import Made, rectangle, stripes, write_coco

from samclip.benchmarks.accuracy.detections import evaluate_detections
from samclip.benchmarks.data.coco import CocoFolder, read_coco
from samclip.benchmarks.data.detector_boxes import DetectedBox, Detections
from samclip.benchmarks.scores import Candidate


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    photos = {
        "a.png": (stripes(0), [Made("red", rectangle(32, 32, 160, 160))]),
        "b.png": (stripes(0), []),
    }
    return read_coco(write_coco(tmp_path, photos))


def measure(coco: CocoFolder, boxes: dict[int, tuple[DetectedBox, ...]]) -> dict:
    models = [Candidate("one", fake_model()), Candidate("two", fake_model())]
    photos = (*coco.photos, *coco.bare)
    rows = evaluate_detections(models, photos, coco.categories, Detections(boxes, {}))
    return {(row.model, row.measure, row.subset): row for row in rows}


def test_the_detector_s_scores_and_categories_count(coco: CocoFolder) -> None:
    right = DetectedBox(0, (32, 32, 160, 160), 0.5)
    rows = measure(coco, {7: (right,)})
    assert rows["one", "box AP50", "all objects"].value == pytest.approx(1)
    assert rows["one", "box AP", "all objects"].value == pytest.approx(1, abs=0.11)  # corners
    assert rows["one", "box again AP50", "all objects"].value == pytest.approx(1)
    assert rows["one / two", "box AP", "all objects"].value == 1
    surer = DetectedBox(0, (32, 32, 160, 160), 0.9)
    rows = measure(coco, {7: (right,), 8: (surer,)})  # in a photo without objects
    assert rows["one", "box AP50", "all objects"].value == pytest.approx(0.5)
    unsure = DetectedBox(0, (32, 32, 160, 160), 0.1)
    assert measure(coco, {7: (right,), 8: (unsure,)})[
        "one", "box AP50", "all objects"
    ].value == pytest.approx(1)
    wrong = DetectedBox(1, (32, 32, 160, 160), 0.5)
    assert measure(coco, {7: (wrong,)})["one", "box AP50", "all objects"].value == 0
