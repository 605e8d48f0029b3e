from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx_export import export_onnx, operators, run_onnx
from reference_efficientnet_lite import reference_lite2, reference_maps
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.checkpoints.recogniser import load_recogniser
from samclip.export.models.efficientnet_lite import (
    LITE0,
    LITE1,
    LITE2,
    LITE3,
    LITE4,
    RECOGNISER_MEAN,
    RECOGNISER_STD,
    EfficientNetLite,
    EfficientNetLiteConfig,
)
from samclip.export.models.norms import fold_batch_norms

TOLERANCE = 1e-5  # largest absolute difference over the largest magnitude


@pytest.fixture(scope="module")
def weights(recogniser_checkpoint: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(recogniser_checkpoint, weights_only=True)
    return state


@pytest.fixture(scope="module")
def recogniser(weights: dict[str, Tensor]) -> EfficientNetLite:
    return load_recogniser(weights)


def recogniser_input(photo: NDArray[np.uint8], image_size: int) -> Tensor:
    """The photo squashed to a square, normalised: 1x3xSxS."""
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    square = F.interpolate(pixels, (image_size, image_size), mode="bilinear", antialias=True)
    return (square - RECOGNISER_MEAN[0]) / RECOGNISER_STD[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("image_size", [260, 512])  # odd maps on the way down, and even ones
@torch.inference_mode()
def test_equals_the_original_on_real_weights(
    recogniser: EfficientNetLite,
    weights: dict[str, Tensor],
    photo: NDArray[np.uint8],
    image_size: int,
) -> None:
    image = recogniser_input(photo, image_size)
    original = reference_lite2(weights, image_size)
    maps, logits = reference_maps(original, image), original(image)
    for model in (recogniser, fold_batch_norms(recogniser)):
        for found, expected in zip(model(image), maps, strict=True):
            assert relative_error(found, expected) < TOLERANCE
        assert relative_error(model.classify(image), logits) < TOLERANCE


@torch.inference_mode()
def test_maps_have_the_promised_shapes() -> None:
    maps = EfficientNetLite(LITE2).eval()(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, 32, 32, 48),
        (2, 24, 16, 24),
        (2, 48, 8, 12),
        (2, 120, 4, 6),
        (2, 352, 2, 3),
    ]


@pytest.mark.parametrize(
    ("config", "channels", "blocks", "millions"),
    [  # the parameters that the authors give for each, classifier and all
        (LITE0, (32, 24, 40, 112, 320), 16, 4.7),
        (LITE1, (32, 24, 40, 112, 320), 21, 5.4),
        (LITE2, (32, 24, 48, 120, 352), 21, 6.1),
        (LITE3, (32, 32, 48, 136, 384), 24, 8.2),
        (LITE4, (32, 32, 56, 160, 448), 30, 13.0),
    ],
)
def test_scalings(
    config: EfficientNetLiteConfig,
    channels: tuple[int, ...],
    blocks: int,
    millions: float,
) -> None:
    with torch.device("meta"):
        model = EfficientNetLite(config, head=True)
    assert config.channels == channels
    assert len(model.blocks) == blocks
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_without_a_head_there_are_no_names() -> None:
    with pytest.raises(InputError, match="head=True"):
        EfficientNetLite(LITE0).classify(torch.zeros(1, 3, 32, 32))


def test_exports_to_onnx(recogniser: EfficientNetLite, photo: NDArray[np.uint8]) -> None:
    image = recogniser_input(photo, 128)
    names = ["s4", "s8", "s16", "s32"]
    graph = export_onnx(fold_batch_norms(recogniser), (image,), ["image"], names, 20)
    assert not operators(graph).keys() & {"BatchNormalization", "If", "Loop", "Shape"}
    with torch.inference_mode():
        for found, expected in zip(run_onnx(graph, image=image), recogniser(image), strict=True):
            assert relative_error(found, expected) < 1e-5


def test_gradients_reach_every_parameter() -> None:
    model = EfficientNetLite(LITE0, head=True).eval()  # in training mode 2x2 maps have no variance
    nn.init.normal_(model.stem.c.weight)
    model.classify(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []
