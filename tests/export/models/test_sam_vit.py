from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from onnx_export import export_onnx, operators, run_onnx
from reference_segment_anything import randomise, reference_encoder, relative_error
from reference_transformers_sam import transformers_encoder
from torch import Tensor

from samclip.export.models.attention import LOWERINGS, Lowering, set_attention_lowering
from samclip.export.models.pos_embed import fit_positions
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit, SamVitConfig

SMALL = SamVitConfig(width=96, depth=4, num_heads=4, global_blocks=(1, 3))


def random_encoder(config: SamVitConfig, image_size: int) -> SamVit:
    encoder = SamVit(config, image_size)
    randomise(encoder)
    return encoder


def random_image(image_size: int) -> Tensor:
    return torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))


# Published sizes: segment-anything's image encoders, 89.7 M, 308 M and 637 M.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vit_b", 89_670_912), ("vit_l", 308_278_272), ("vit_h", 637_026_048)],
)
def test_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        encoder = SamVit(SAM_VIT_CONFIGS[name], 1024)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert (encoder.grid, encoder.backbone_channels) == (64, SAM_VIT_CONFIGS[name].width)


@torch.no_grad()
@pytest.mark.parametrize("image_size", [64, 512])
def test_equals_both_references(image_size: int, mobile_sam_reference: Path) -> None:
    encoder, image = random_encoder(SMALL, image_size), random_image(image_size)
    state = encoder.state_dict()
    features, embeddings = encoder(image)
    assert features.shape == (1, 96, image_size // 16, image_size // 16)
    original = reference_encoder(mobile_sam_reference, SMALL, image_size, state)
    assert relative_error(embeddings, original(image)) < 1e-5
    assert relative_error(original.neck(features), original(image)) < 1e-5  # before the neck
    other = transformers_encoder(SMALL, image_size, state)
    assert relative_error(embeddings, other(image).last_hidden_state) < 1e-5


@torch.no_grad()
def test_equals_segment_anything_at_1024(mobile_sam_reference: Path) -> None:
    config = replace(SMALL, width=64, depth=2, num_heads=2, global_blocks=(1,))
    encoder, image = random_encoder(config, 1024), random_image(1024)
    original = reference_encoder(mobile_sam_reference, config, 1024, encoder.state_dict())
    expected = original(image)
    for lowering in LOWERINGS:
        set_attention_lowering(encoder, lowering)
        assert relative_error(encoder(image)[1], expected) < 1e-5, lowering


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("image_size", [512, 1024])
@pytest.mark.parametrize("reference", ["segment-anything", "transformers"])
def test_vit_b_in_full(reference: str, image_size: int, mobile_sam_reference: Path) -> None:
    config = SAM_VIT_CONFIGS["vit_b"]
    encoder, image = random_encoder(config, image_size), random_image(image_size)
    if reference == "transformers":
        other = transformers_encoder(config, image_size, encoder.state_dict())
        expected = other(image).last_hidden_state
    else:
        original = reference_encoder(mobile_sam_reference, config, image_size, encoder.state_dict())
        expected = original(image)
    for lowering in LOWERINGS:
        set_attention_lowering(encoder, lowering)
        assert relative_error(encoder(image)[1], expected) < 1e-5, lowering


@torch.no_grad()
def test_weights_of_1024_at_512(mobile_sam_reference: Path) -> None:
    large, small = random_encoder(SMALL, 1024), SamVit(SMALL, 512).eval()
    fitted = fit_positions(large.state_dict(), small)
    small.load_state_dict(fitted)
    # segment-anything resizes relative tables itself, at every pass, but has no other positions.
    original = reference_encoder(mobile_sam_reference, SMALL, 512, small.state_dict())
    for block, source in zip(original.blocks, large.blocks, strict=True):
        block.attn.rel_pos_h = source.attn.rel_pos_h
        block.attn.rel_pos_w = source.attn.rel_pos_w
    image = random_image(512)
    assert original.blocks[1].attn.rel_pos_h.shape == (127, 24)
    assert relative_error(small(image)[1], original(image)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("opset", "lowering"), [(18, "chunk"), (20, "fold"), (23, "bias")])
def test_export(opset: int, lowering: Lowering) -> None:
    config = SamVitConfig(width=32, depth=2, num_heads=2, global_blocks=(1,), window_size=3)
    encoder, image = random_encoder(config, 64), random_image(64)
    set_attention_lowering(encoder, lowering)
    names = ["backbone_features", "image_embeddings"]
    graph = export_onnx(encoder, (image,), ["image"], names, opset)
    found = operators(graph)
    assert found["LayerNormalization"] == 2 * config.depth + 2
    assert not {"ReduceMean", "Sqrt", "OneHot", "Einsum", "Range", "Shape"} & set(found)
    assert found["Attention"] == (config.depth if opset >= 23 else 0)
    for ours, torchs in zip(run_onnx(graph, image=image), encoder(image), strict=True):
        assert relative_error(ours, torchs) < 1e-5
