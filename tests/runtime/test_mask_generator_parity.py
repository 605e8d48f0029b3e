"""Real MobileSAM weights: our generator against segment-anything's, record by record."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_mobile_sam import reference_mobile_sam
from reference_segment_anything import load_package

import samclip
from samclip.runtime.results.coco import unpack_counts

SINGLE = [np.array([(0.5, 0.3), (0.65, 0.68), (0.2, 0.9), (0.5, 0.8)])]
LAYERS = [np.array([(0.5, 0.3), (0.65, 0.68)]), np.array([(0.5, 0.6)])]
OPTIONS: dict[str, dict[str, Any]] = {
    "binary_mask": {"points_per_side": 4, "points_per_batch": 7, "min_mask_region_area": 300},
    "uncompressed_rle": {"points_per_side": None, "point_grids": SINGLE, "pred_iou_thresh": 0.7},
    "coco_rle": {
        **{"points_per_side": None, "point_grids": LAYERS, "crop_n_layers": 1},
        **{"pred_iou_thresh": 0.7, "stability_score_thresh": 0.8, "crop_overlap_ratio": 0.2},
        **{"crop_nms_thresh": 0.9, "min_mask_region_area": 100},
    },
}


@pytest.fixture(scope="module")
def model(mobile_sam_bundle: Path) -> Iterator[samclip.Model]:
    with samclip.load(mobile_sam_bundle, "onnxruntime", threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def sam(mobile_sam_reference: Path, mobile_sam_checkpoint: Path) -> Any:
    return reference_mobile_sam(mobile_sam_reference, mobile_sam_checkpoint)


def decode(segmentation: Any) -> NDArray[np.bool_]:
    """Draw a mask of any output mode by segment-anything's own code."""
    amg = load_package().utils.amg
    if isinstance(segmentation, np.ndarray):
        return segmentation
    if isinstance(segmentation["counts"], str):
        counts = unpack_counts(segmentation["counts"]).tolist()
        segmentation = {"size": segmentation["size"], "counts": counts}
    return np.asarray(amg.rle_to_mask(segmentation))


def kinds(value: Any) -> Any:
    """Describe the types of a record, those of a list's items too."""
    if isinstance(value, dict):
        return {key: kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [list, *sorted({str(kinds(item)) for item in value})]
    return (type(value), value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("binary_mask", marks=pytest.mark.slow),
        "uncompressed_rle",
        pytest.param("coco_rle", marks=pytest.mark.slow),
    ],
)
def test_records_equal_the_originals(
    mode: str, model: samclip.Model, sam: Any, photo: NDArray[np.uint8]
) -> None:
    options = {**OPTIONS[mode], "output_mode": mode}
    expected = load_package().SamAutomaticMaskGenerator(sam, **options).generate(photo)
    found = samclip.SamAutomaticMaskGenerator(model, **options).generate(photo)
    assert len(found) == len(expected) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["point_coords"] == theirs["point_coords"]
        assert ours["crop_box"] == theirs.pop("crop_box")  # theirs are floats where crops are empty
        assert kinds(ours) == kinds({**theirs, "crop_box": ours["crop_box"]})
        mask, other = decode(ours["segmentation"]), decode(theirs["segmentation"])
        # float32 on both sides: logits differ by 0.02, which moves pixels at the border only
        assert (mask & other).sum() / (mask | other).sum() > 0.999
        assert ours["area"] == mask.sum()
        assert ours["area"] == pytest.approx(theirs["area"], rel=1e-3)
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-3)
        assert ours["stability_score"] == pytest.approx(theirs["stability_score"], abs=2e-3)
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=2)


@pytest.mark.parametrize("name", ["SamAutomaticMaskGenerator", "SamPredictor"])
def test_calls_are_those_of_the_original(name: str) -> None:
    """Every public method takes the original's arguments, in its order and with its defaults."""
    original, ours = getattr(load_package(), name), getattr(samclip, name)
    methods = [each for each in vars(original) if callable(getattr(original, each))]
    checked = {each for each in methods if each == "__init__" or not each.startswith("_")}
    assert len(checked) > 1
    for method in checked - {"postprocess_small_regions"}:  # a step of `generate`
        arguments = [
            [(each.name, each.default) for each in inspect.signature(kind).parameters.values()]
            for kind in (getattr(ours, method), getattr(original, method))
        ]
        if name == "SamPredictor" and method == "__init__":
            arguments[1] = [(each.replace("sam_model", "model"), d) for each, d in arguments[1]]
        assert arguments[0] == arguments[1], method
