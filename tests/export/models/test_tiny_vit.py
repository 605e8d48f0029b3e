from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx_export import export_onnx, operators, run_onnx
from reference_mobile_sam import reference_encode, reference_tiny_vit, sam_input
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.tiny_vit import (
    IGNORED_CHECKPOINT_KEYS,
    TinyVit,
    TinyVitBlock,
    WindowAttention,
    bias_indices,
)

PREFIX = "image_encoder."


@pytest.fixture(scope="module")
def weights(mobile_sam_checkpoint: Path) -> dict[str, Tensor]:
    state = torch.load(mobile_sam_checkpoint, map_location="cpu", weights_only=True)
    return {key[len(PREFIX) :]: value for key, value in state.items() if key.startswith(PREFIX)}


def real_tiny_vit(weights: dict[str, Tensor], image_size: int) -> TinyVit:
    model = TinyVit(image_size)
    model.load_state_dict({k: v for k, v in weights.items() if k not in IGNORED_CHECKPOINT_KEYS})
    return model.eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest magnitude."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_state_dict_keys_are_those_of_the_checkpoint(weights: dict[str, Tensor]) -> None:
    own = TinyVit(64).state_dict()
    assert own.keys() | set(IGNORED_CHECKPOINT_KEYS) == weights.keys()
    assert not own.keys() & set(IGNORED_CHECKPOINT_KEYS)
    assert all(own[key].shape == weights[key].shape for key in own)


@pytest.mark.parametrize("image_size", [1024, 512, 80])
@torch.inference_mode()
def test_equals_the_original_on_real_weights(
    weights: dict[str, Tensor],
    mobile_sam_reference: Path,
    photo: NDArray[np.uint8],
    image_size: int,
) -> None:
    image = sam_input(photo, image_size)
    reference = reference_tiny_vit(mobile_sam_reference, weights, image_size)
    model = real_tiny_vit(weights, image_size)
    grid = image_size // 16
    for found, expected, channels in zip(
        model(image), reference_encode(reference, image), (320, 256), strict=True
    ):
        assert found.shape == expected.shape == (1, channels, grid, grid)
        assert relative_error(found, expected) < 1e-5


@torch.inference_mode()
def test_equals_the_original_on_a_batch(
    weights: dict[str, Tensor], mobile_sam_reference: Path
) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 112, 112)  # a grid of 7: exactly one window in the last stage
    reference = reference_tiny_vit(mobile_sam_reference, weights, 112)
    found, expected = real_tiny_vit(weights, 112)(images), reference_encode(reference, images)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-5


@torch.inference_mode()
def test_folding_computes_the_same(weights: dict[str, Tensor], photo: NDArray[np.uint8]) -> None:
    model, image = real_tiny_vit(weights, 256), sam_input(photo, 256)
    folded = fold_batch_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for found, expected in zip(folded(image), model(image), strict=True):
        assert relative_error(found, expected) < 1e-5


# The graph in opset 20 is compared with torch by test_exporter.py.
@pytest.mark.parametrize("opset", [18, pytest.param(20, marks=pytest.mark.slow)])
def test_exports_to_onnx(weights: dict[str, Tensor], photo: NDArray[np.uint8], opset: int) -> None:
    model, image = fold_batch_norms(real_tiny_vit(weights, 256)), sam_input(photo, 256)
    outputs = ["backbone_features", "image_embeddings"]
    graph = export_onnx(model, (image,), ["image"], outputs, opset)
    used = operators(graph)
    assert used["LayerNormalization"] == 2 * 10 + 2  # ten blocks, the neck
    assert not used.keys() & {"BatchNormalization", "ReduceMean", "GatherND", "OneHot", "If"}
    with torch.inference_mode():
        for found, expected in zip(run_onnx(graph, image=image), model(image), strict=True):
            assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("image_size", [0, -16, 100, 1030])
def test_refuses_other_sizes(image_size: int) -> None:
    with pytest.raises(InputError, match="multiple of 16"):
        TinyVit(image_size)


def test_tells_its_grid_and_channels() -> None:
    model = TinyVit(224)
    assert (model.image_size, model.grid, model.backbone_channels) == (224, 14, 320)


def test_gradients_reach_every_parameter() -> None:
    model = TinyVit(64).train()
    nn.init.ones_(model.layers[0].blocks[0].conv3.bn.weight)  # starts as 0: blocks conv1, conv2
    nn.init.ones_(model.layers[0].blocks[1].conv3.bn.weight)
    features, embeddings = model(torch.randn(2, 3, 64, 64))
    (features.square().mean() + (embeddings * torch.randn_like(embeddings)).mean()).backward()
    without = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_bias_indices_by_hand() -> None:
    # Tokens of a 2x2 window: 0 1 / 2 3; offset (|dy|, |dx|) has number 2 |dy| + |dx|.
    expected = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    assert bias_indices(2).tolist() == expected


def test_biases_loaded_after_eval_are_used() -> None:
    attention = WindowAttention(8, num_heads=2, window_size=2).eval()
    x = torch.randn(1, 4, 8)
    before = attention(x)
    nn.init.normal_(attention.attention_biases)
    assert not torch.allclose(before, attention(x))


def test_windows_do_not_see_each_other() -> None:
    block = TinyVitBlock(8, num_heads=2, window_size=3, mlp_ratio=2.0).eval()
    x = torch.randn(1, 6, 6, 8)
    changed = x.clone()
    changed[:, 3:, 3:] += torch.randn(3, 3, 8)  # LayerNorm takes away what all channels share
    with torch.inference_mode():
        difference = (block._attend(changed) - block._attend(x)).abs().amax(-1)[0]
    assert difference[3:, 3:].min() > 0
    assert not difference[:3].any() and not difference[:, :3].any()
