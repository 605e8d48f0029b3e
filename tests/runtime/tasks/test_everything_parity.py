"""The procedure against the original `SamAutomaticMaskGenerator`, on equal decoder outputs."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import IMAGE_SIZE, MASK_SIZE, fake_model
from numpy.typing import NDArray
from reference_mask_generator import load_generator
from torch import Tensor


def blobs(coords: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Invent IoUs Bx4 and ragged logits Bx4xhxw for B points Bx2: the same for equal points."""
    centres = (np.arange(MASK_SIZE) + 0.5) * 4
    x, y = np.meshgrid(centres, centres)
    logits, ious = [], []
    for point in np.asarray(coords, np.float64):
        seed = int(point[0] * 8) * 4096 + int(point[1] * 8)
        rng = np.random.default_rng(seed)
        distance = np.hypot(x - point[0], y - point[1])
        noise = rng.normal(size=(MASK_SIZE, MASK_SIZE)) * 6
        radii = rng.uniform(10, 70, 4)
        logits.append(np.stack([radius - distance + noise * (radius > 40) for radius in radii]))
        ious.append(rng.integers(0, 20, 4) / 20 + 0.05)  # with ties
    return np.asarray(ious, np.float32), np.asarray(logits, np.float32)


class OriginalSam:
    """As much of the original `Sam` as its predictor asks for, with invented masks."""

    mask_threshold = 0.0
    image_format = "RGB"
    device = torch.device("cpu")

    def __init__(self, postprocess: Any) -> None:
        self.image_encoder = _Encoder()
        self.prompt_encoder = _PromptEncoder()
        self.postprocess_masks = types.MethodType(postprocess, self)

    def preprocess(self, image: Tensor) -> Tensor:
        return image

    def mask_decoder(
        self, sparse_prompt_embeddings: Tensor, multimask_output: bool, **_: Any
    ) -> tuple[Tensor, Tensor]:
        assert multimask_output
        iou, logits = blobs(sparse_prompt_embeddings[:, 0].numpy().astype(np.float32))
        return torch.as_tensor(logits[:, 1:]), torch.as_tensor(iou[:, 1:])


class _Encoder:
    img_size = IMAGE_SIZE

    def __call__(self, image: Tensor) -> Tensor:
        return image


class _PromptEncoder:
    def __call__(self, points: Any, boxes: Any, masks: Any) -> tuple[Tensor, Tensor]:
        return points[0], points[0]

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1)


def invented_decoder(point_coords: NDArray[np.float32], **_: Any) -> dict[str, NDArray[Any]]:
    iou, logits = blobs(point_coords[:, 0])
    return {"iou_predictions": iou, "low_res_masks": logits}


OPTIONS: list[dict[str, Any]] = [
    {"points_per_side": 8},
    {"points_per_side": 6, "points_per_batch": 5, "pred_iou_thresh": 0.5},
    {"points_per_side": 5, "pred_iou_thresh": 0.3, "min_mask_region_area": 200},
    {"points_per_side": 4, "pred_iou_thresh": 0.3, "crop_n_layers": 1},
    {
        "points_per_side": 4,
        "pred_iou_thresh": 0.2,
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 60,
        "crop_nms_thresh": 0.5,
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{v}" for v in o.values()))
def test_records_equal_the_originals(
    options: dict[str, Any], mobile_sam_reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = load_generator(mobile_sam_reference)
    sam_class = __import__(
        f"{original.SamPredictor.__module__.split('.')[0]}.modeling.sam", fromlist=["Sam"]
    ).Sam
    common = {"stability_score_thresh": 0.4, **options}
    image = np.random.default_rng(1).integers(0, 256, (150, 220, 3), np.uint8)
    generator = original.SamAutomaticMaskGenerator(
        OriginalSam(sam_class.postprocess_masks), **common
    )
    expected = generator.generate(image)

    monkeypatch.setitem(fakes.GRAPHS, "mask_decoder", invented_decoder)
    found = fake_model().encode(image).everything(**common)
    records = found.records()

    assert len(expected) > 3
    assert len(records) == len(expected)
    for ours, theirs in zip(records, expected, strict=True):
        np.testing.assert_allclose(ours["point_coords"], theirs["point_coords"], atol=1e-9)
        assert ours["crop_box"] == theirs["crop_box"]
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-6)
        # cv2 and torch interpolate with different roundings: a pixel on the border may differ.
        assert np.count_nonzero(ours["segmentation"] != theirs["segmentation"]) <= 2
        assert ours["stability_score"] == pytest.approx(theirs["stability_score"], abs=1e-3)
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], atol=1)
        assert abs(ours["area"] - theirs["area"]) <= 2
