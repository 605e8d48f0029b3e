"""What Open-Vocabulary SAM's graphs are verified on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from small_ovsam import SMALL_OVSAM, random_ovsam, small_assembly

from samclip.export.families.ovsam import example_boxes, ovsam_exportable
from samclip.export.models.ovsam.convnext import ConvNextConfig
from samclip.export.models.ovsam.model import OvsamConfig
from samclip.export.models.ovsam.roi_classifier import level_of
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.image import Letterbox

CONVNEXT = replace(
    SMALL_OVSAM, backbone=ConvNextConfig((8, 16, 16, 24), (1, 1, 2, 1), embed_dim=24)
)


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_boxes_are_of_every_level_and_far_from_its_limits(side: int) -> None:
    boxes = example_boxes(Letterbox.fit((300, 400), side))
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).repeat(1, 2)  # Nx4
    for factor in (0.8, 1.0, 1.2):  # of their sides
        assert {0, 1, 2, 3} <= set(level_of(middle + factor * (boxes - middle)).tolist())
    assert boxes[0].tolist() == [0, 0, side, 0.75 * side]


@pytest.mark.parametrize("config", [SMALL_OVSAM, CONVNEXT], ids=["resnet", "convnext"])
def test_a_photo_gives_samples_of_every_graph(config: OvsamConfig) -> None:
    subject = ovsam_exportable(small_assembly(random_ovsam(config)))
    samples = subject.samples(packaged_photos() / "coffee.jpg")
    assert {sample.image for sample in samples} == {"coffee.jpg"}
    assert Counter(sample.graph for sample in samples) == {
        "encoder": 1,
        "mask_decoder": 3,
        "roi_classifier": 2,
        "clip_roi": 2,
    }
    for sample in samples:
        for array in sample.expected.values():
            assert np.isfinite(array).all()
            assert np.ptp(array) > 0 or array.size == 1
    shapes = [s.expected["logits"].shape for s in samples if s.graph == "roi_classifier"]
    assert shapes == [(5, 16), (1, 1)]
    (several, one) = (s.expected["clip_logits"] for s in samples if s.graph == "clip_roi")
    assert several.shape == (5, 16)
    assert one.shape == (1, 1)
