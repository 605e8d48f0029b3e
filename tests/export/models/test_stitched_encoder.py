from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from onnx_export import export_onnx, operators, run_onnx
from torch import Tensor

from samclip.errors import InputError
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.stitched_encoder import FIRST_STAGE, StitchedEncoder, stitch_target
from samclip.export.models.tiny_vit import TinyVit


def random_encoder(image_size: int, pyramid: tuple[int, ...]) -> StitchedEncoder:
    torch.manual_seed(0)
    return StitchedEncoder(image_size, pyramid).eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def test_features_are_the_maps_of_every_level() -> None:
    encoder, image = random_encoder(128, (1, 2, 4)), torch.randn(2, 3, 128, 128)
    features, embeddings = encoder(image)
    assert (encoder.grid, encoder.backbone_grid, encoder.backbone_channels) == (8, 4, 3 * 352)
    assert features.shape == (2, 3 * 352, 4, 4)
    assert embeddings.shape == (2, 256, 8, 8)
    for level, divisor in enumerate((1, 2, 4)):
        expected = encoder.backbone(F.avg_pool2d(image, divisor)).stride32
        found = features[:, 352 * level : 352 * (level + 1)]
        for dy in range(divisor):  # every token of a coarse level stands divisor x divisor times
            for dx in range(divisor):
                assert torch.equal(found[:, :, dy::divisor, dx::divisor], expected)


@torch.inference_mode()
def test_the_pyramid_changes_no_mask() -> None:
    image = torch.randn(1, 3, 128, 128)
    one, three = random_encoder(128, (1,)), random_encoder(128, (1, 2, 4))
    assert one.state_dict().keys() == three.state_dict().keys()
    assert torch.equal(one(image)[1], three(image)[1])
    assert torch.equal(one(image)[0], three(image)[0][:, :352])


@torch.inference_mode()
def test_its_back_is_tiny_vits() -> None:
    """Fed with what TinyViT feeds to its stage 1, the stages and the neck answer as TinyViT."""
    torch.manual_seed(0)
    sam, image = TinyVit(128).eval(), torch.randn(1, 3, 128, 128)
    encoder = random_encoder(128, (1,))
    encoder.stages.load_state_dict(sam.layers[FIRST_STAGE:].state_dict())
    encoder.neck.load_state_dict(sam.neck.state_dict())
    target = stitch_target(sam, image)
    assert target.shape == (1, 128, 16, 16)
    assert torch.equal(encoder.embed(target), sam(image)[1])


@pytest.mark.parametrize("pyramid", [(), (2,), (1, 1), (1, 0), (2, 1)])
def test_refuses_other_pyramids(pyramid: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="1 first"):
        StitchedEncoder(128, pyramid)


@pytest.mark.parametrize(("image_size", "pyramid"), [(0, (1,)), (80, (1,)), (192, (1, 2, 4))])
def test_refuses_other_sizes(image_size: int, pyramid: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="multiple of 32 times every divisor"):
        StitchedEncoder(image_size, pyramid)


def test_exports_to_onnx() -> None:
    encoder, image = random_encoder(64, (1, 2)), torch.randn(1, 3, 64, 64)
    outputs = ["backbone_features", "image_embeddings"]
    graph = export_onnx(fold_batch_norms(encoder), (image,), ["image"], outputs, 20)
    assert not operators(graph).keys() & {"BatchNormalization", "If", "Loop", "Shape"}
    with torch.inference_mode():
        for found, expected in zip(run_onnx(graph, image=image), encoder(image), strict=True):
            assert relative_error(found, expected) < 1e-4
