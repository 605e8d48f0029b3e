"""Real MobileSAM weights: our predictor against the original one, prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_mask_generator import load_generator
from reference_mobile_sam import reference_mobile_sam

import samclip

POINT = {"point_coords": np.array([[300.0, 120.0]]), "point_labels": np.array([1])}
PROMPTS: dict[str, dict[str, Any]] = {
    "point": POINT,
    "point-single": {**POINT, "multimask_output": False},
    "points": {
        "point_coords": np.array([[300.0, 120.0], [420.5, 250.25], [30.0, 30.0]]),
        "point_labels": np.array([1, 1, 0]),
        "multimask_output": False,
    },
    "box": {"box": np.array([75.0, 15.0, 480.0, 392.0]), "multimask_output": False},
    "box-and-point": {**POINT, "box": np.array([170.0, 15.0, 420.0, 320.0])},
    "logits": {"box": np.array([320.0, 210.0, 420.0, 330.0]), "return_logits": True},
}


@pytest.fixture(scope="module")
def model(mobile_sam_bundle: Path) -> Iterator[samclip.Model]:
    with samclip.load(mobile_sam_bundle, "onnxruntime", threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def ours(model: samclip.Model, photo: NDArray[np.uint8]) -> samclip.SamPredictor:
    predictor = samclip.SamPredictor(model)
    predictor.set_image(photo)
    return predictor


@pytest.fixture(scope="module")
def original(
    mobile_sam_reference: Path, mobile_sam_checkpoint: Path, photo: NDArray[np.uint8]
) -> Any:
    sam = reference_mobile_sam(mobile_sam_reference, mobile_sam_checkpoint)
    predictor = load_generator(mobile_sam_reference).SamPredictor(sam)
    predictor.set_image(photo)
    return predictor


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def compare(ours: Any, theirs: Any) -> None:
    (masks, scores, low_res), (masks_0, scores_0, low_res_0) = ours, theirs
    assert masks.shape == masks_0.shape
    assert masks.dtype == masks_0.dtype
    np.testing.assert_allclose(scores, scores_0, atol=1e-3)
    np.testing.assert_allclose(low_res, low_res_0, atol=0.02)  # of logits in about [-40, 20]
    for one, other in zip(masks, masks_0, strict=True):
        if masks.dtype == np.float32:
            np.testing.assert_allclose(one, other, atol=0.02)
        else:
            assert iou(one, other) > 0.999


def test_the_embedding(ours: samclip.SamPredictor, original: Any) -> None:
    theirs = original.get_image_embedding().numpy()
    found = ours.get_image_embedding()
    assert found.shape == (1, 256, 64, 64)
    np.testing.assert_allclose(found, theirs, atol=1e-3)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(name: str, ours: samclip.SamPredictor, original: Any) -> None:
    compare(ours.predict(**PROMPTS[name]), original.predict(**PROMPTS[name]))


def test_a_mask_fed_back(ours: samclip.SamPredictor, original: Any) -> None:
    low_res = original.predict(**PROMPTS["box"])[2]
    prompt = {**POINT, "mask_input": low_res, "multimask_output": False}
    compare(ours.predict(**prompt), original.predict(**prompt))


def test_a_mask_alone(ours: samclip.SamPredictor, original: Any) -> None:
    prompt = {"mask_input": original.predict(**PROMPTS["box"])[2], "multimask_output": False}
    compare(ours.predict(**prompt), original.predict(**prompt))
