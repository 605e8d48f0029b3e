"""The command on real weights: MobileSAM finds a cup, and its untrained head names it somehow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_data import Made, write_coco
from numpy.typing import NDArray

CUP = (172, 17, 410, 308)  # XYXY around the cup, saucer left out


@pytest.fixture
def coffee(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    """The photo of a cup, whose outline is taken for an ellipse in its box."""
    x0, y0, x1, y1 = CUP
    mask = np.zeros(photo.shape[:2], np.uint8)
    centre, axes = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    made = Made("red", mask.astype(bool), CUP)
    return write_coco(tmp_path / "coffee", {"coffee.png": (photo, [made])})


def test_masks_and_names_of_a_cup(
    coffee: Path, mobile_sam_bundle: Path, tmp_path: Path, bench: Callable[..., Any]
) -> None:
    report = tmp_path / "report.json"
    shared = (coffee, "--bundle", mobile_sam_bundle, "--backend", "onnxruntime", "--json", report)
    result = bench("accuracy", "instances", *shared)
    assert result.exit_code == 0, result.stderr
    record = json.loads(report.read_bytes())
    values = {row["measure"]: row["value"] for row in record["rows"]}
    assert values["box mIoU"] > 0.7  # against an ellipse
    assert values["point mIoU"] <= values["point mIoU, best of three"]
    (subject,) = record["subjects"]
    assert (subject["backend"], subject["image_size"]) == ("onnxruntime", 1024)
    assert subject["trained_head"] is False
    result = bench("accuracy", "names", *shared, "--no-crops")
    assert result.exit_code == 0, result.stderr
    assert "UNTRAINED" in result.stderr
    rows = json.loads(report.read_bytes())["rows"]
    (row, _) = [each for each in rows if each["measure"] == "name top-1"]
    (sure, _) = [each for each in rows if each["measure"] == "calibration error of shares"]
    assert 0 <= sure["value"] <= 1
    assert row["value"] in {0.0, 1.0}
