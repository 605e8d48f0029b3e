from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from onnx_export import export_onnx, operators, run_onnx
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.clip_head import (
    ClipHeadConfig,
    SamClipHead,
    clip_head_config,
    initialise_from_encoder,
    masked_max,
)
from samclip.export.models.sam_vit import SamVit, SamVitConfig
from samclip.export.models.tiny_vit import TinyVit

SMALL = ClipHeadConfig(width=32, num_heads=2, embed_dim=24, grid=6)


def small_head(**changes: Any) -> SamClipHead:
    """A head with random weights throughout, relative positions included, in eval mode."""
    torch.manual_seed(0)
    head = SamClipHead(ClipHeadConfig(**{**vars(SMALL), **changes})).eval()
    for name, parameter in head.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter, std=0.2)
    return head


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_shapes(pool: int) -> None:
    head = small_head(pool=pool)
    side = 6 // pool
    image_embed, patch_embeds = head(torch.randn(2, 32, 6, 6), torch.ones(2, side, side))
    assert head.config.tokens == side
    assert image_embed.shape == (2, 24)
    assert patch_embeds.shape == (2, 24, side, side)


def test_one_token_embeds_like_its_image() -> None:
    head = small_head(grid=1)
    image_embed, patch_embeds = head(torch.randn(3, 32, 1, 1), torch.ones(3, 1, 1))
    torch.testing.assert_close(patch_embeds[:, :, 0, 0], image_embed, rtol=0, atol=1e-6)


def test_pools_before_norm_and_mlp() -> None:
    head = small_head(depth=1)
    features, mask = torch.randn(1, 32, 6, 6), torch.ones(1, 6, 6)
    tokens = head.layers[0](features.permute(0, 2, 3, 1)).flatten(1, 2)
    image_embed, patch_embeds = head(features, mask)
    pooled = head.mlp(head.norm(tokens.amax(1)))
    dense = head.mlp(head.norm(tokens))[0].T.reshape(1, 24, 6, 6)
    torch.testing.assert_close(image_embed, pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(patch_embeds, dense, rtol=0, atol=1e-6)


def test_pool_averages_tokens_first() -> None:
    pooling, plain = small_head(pool=2), small_head(grid=3)
    plain.load_state_dict(pooling.state_dict())
    features, mask = torch.randn(1, 32, 6, 6), torch.ones(1, 3, 3)
    averaged = features.reshape(1, 32, 3, 2, 3, 2).mean((3, 5))
    for found, expected in zip(pooling(features, mask), plain(averaged, mask), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_masked_max_by_hand() -> None:
    tokens = torch.tensor([[[-5.0, 9.0], [-7.0, -3.0], [4.0, -8.0]]])
    assert masked_max(tokens, torch.tensor([[1.0, 1.0, 1.0]])).tolist() == [[4.0, 9.0]]
    assert masked_max(tokens, torch.tensor([[1.0, 1.0, 0.0]])).tolist() == [[-5.0, 9.0]]
    assert masked_max(tokens, torch.tensor([[0.0, 1.0, 0.0]])).tolist() == [[-7.0, -3.0]]
    assert masked_max(tokens, torch.tensor([[0.0, 0.0, 0.0]])).tolist() == [[-7.0, -8.0]]


@given(st.integers(0, 2**32), st.floats(1e-6, 6e4), st.sampled_from([torch.float16, torch.float32]))
def test_masked_max_is_exact(seed: int, scale: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = (torch.rand(1, 9, 4, generator=generator) * 2 - 1).mul(scale).to(dtype)
    keep = torch.rand(1, 9, generator=generator) > 0.5
    keep[0, int(torch.randint(9, (), generator=generator))] = True
    expected = tokens[:, keep[0]].amax(1)
    assert torch.equal(masked_max(tokens, keep.float()), expected)


def test_padding_is_left_out_of_the_pooling() -> None:
    head = small_head(depth=1)
    features = torch.randn(1, 32, 6, 6)
    mask = torch.ones(1, 6, 6)
    mask[:, 4:] = 0
    tokens = head.layers[0](features.permute(0, 2, 3, 1))
    image_embed, patch_embeds = head(features, mask)
    expected = head.project(tokens[:, :4].flatten(1, 2).amax(1))
    torch.testing.assert_close(image_embed, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(patch_embeds, head(features, torch.ones(1, 6, 6))[1])


@pytest.mark.parametrize(("opset", "pool"), [(18, 1), (20, 2)])
def test_exports_to_onnx(opset: int, pool: int) -> None:
    head = small_head(pool=pool)
    features, mask = torch.randn(1, 32, 6, 6), torch.ones(1, 6 // pool, 6 // pool)
    mask[:, 2:] = 0
    inputs, outputs = ["backbone_features", "token_mask"], ["image_embed", "patch_embeds"]
    graph = export_onnx(head, (features, mask), inputs, outputs, opset)
    used = operators(graph)
    assert used["LayerNormalization"] == 2 * 3 + 2  # three layers, pooled and dense projection
    assert not used.keys() & {"ReduceMean", "GatherND", "OneHot", "If"}
    found = run_onnx(graph, backbone_features=features, token_mask=mask)
    with torch.inference_mode():
        for array, expected in zip(found, head(features, mask), strict=True):
            assert (array - expected).abs().max() < 1e-4 * expected.abs().max()


def test_gradients_reach_every_parameter() -> None:
    head = small_head().train()
    image_embed, patch_embeds = head(torch.randn(1, 32, 6, 6), torch.ones(1, 6, 6))
    (image_embed.square().sum() + patch_embeds.square().sum()).backward()
    without = [k for k, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_pooled_loss_alone_trains_the_head() -> None:
    head = small_head(depth=1).train()
    features = torch.randn(8, 32, 6, 6)
    target = F.normalize(torch.randn(8, 24), dim=-1)
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        image_embed, _ = head(features, torch.ones(8, 6, 6))
        loss = 1 - F.cosine_similarity(image_embed, target).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.9
    assert losses[-1] < 0.3


def test_vit_b_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        head = SamClipHead(clip_head_config("vit_b", 1024, embed_dim=768))
    count = sum(parameter.numel() for parameter in head.parameters())
    assert abs(count - 23.1e6) < 0.05e6  # ~25 % of SAM ViT-B's 89.67 M encoder


@pytest.mark.parametrize(
    ("model_type", "width", "heads"),
    [("vit_t", 320, 10), ("vit_b", 768, 12), ("vit_l", 1024, 16), ("vit_h", 1280, 16)],
)
def test_config_fits_the_encoder(model_type: str, width: int, heads: int) -> None:
    config = clip_head_config(model_type, 512, embed_dim=640, pool=2)
    assert config == ClipHeadConfig(width, heads, 640, grid=32, depth=3, pool=2, hidden=None)
    assert config.tokens == 16


def test_hidden_width() -> None:
    mlp = small_head(hidden=50).mlp
    assert (mlp.lin1.out_features, mlp.lin2.out_features, mlp.lin3.out_features) == (50, 50, 24)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clip_head_config("vit_x", 1024, 512), "unknown model type 'vit_x'"),
        (lambda: clip_head_config("vit_b", 1000, 512), "not a multiple of 16"),
        (lambda: clip_head_config("vit_b", 1008, 512, pool=2), "pool=2 does not divide"),
        (lambda: ClipHeadConfig(30, 4, 512, 8), "4 heads do not divide a width of 30"),
        (lambda: ClipHeadConfig(32, 4, 512, 8, depth=0), "at least 1"),
    ],
)
def test_refuses_what_does_not_fit(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def random_sam_vit(image_size: int = 128) -> SamVit:
    """A two-layer SAM ViT (window 4 first, then global) with random weights throughout."""
    torch.manual_seed(1)
    config = SamVitConfig(width=32, depth=2, num_heads=2, global_blocks=(1,), window_size=4)
    encoder = SamVit(config, image_size)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


def test_starts_from_the_last_block_of_a_sam_vit() -> None:
    encoder, head = random_sam_vit(96), small_head()
    mlp_before = head.mlp.lin1.weight.clone()
    report = initialise_from_encoder(head, encoder)
    tokens = torch.randn(1, 6, 6, 32)
    for layer in head.layers:
        assert torch.equal(layer(tokens), encoder.blocks[-1](tokens))
    assert torch.equal(head.mlp.lin1.weight, mlp_before)
    assert report.resized == ()
    assert len(report.copied) == 3 * 14
    assert set(report.untouched) == {k for k in head.state_dict() if not k.startswith("layers.")}


def test_layers_are_copies_not_the_encoder_itself() -> None:
    encoder, head = random_sam_vit(96), small_head()
    initialise_from_encoder(head, encoder)
    before = encoder.blocks[-1].norm1.weight.clone()
    nn.init.zeros_(head.layers[0].norm1.weight)
    assert torch.equal(encoder.blocks[-1].norm1.weight, before)
    assert torch.equal(head.layers[1].norm1.weight, before)


def test_relative_positions_are_resized_to_the_head() -> None:
    encoder, head = random_sam_vit(192), small_head(grid=12, pool=2)
    report = initialise_from_encoder(head, encoder)
    tables = {f"layers.{i}.attn.rel_pos_{axis}" for i in range(3) for axis in "hw"}
    assert set(report.resized) == tables
    table = encoder.blocks[-1].attn.rel_pos_h
    expected = F.interpolate(table.T[None], size=11, mode="linear")[0].T
    torch.testing.assert_close(head.layers[2].attn.rel_pos_h, expected, rtol=0, atol=1e-6)


def test_starts_from_the_last_block_of_tiny_vit() -> None:
    torch.manual_seed(2)
    encoder = TinyVit(112).eval()  # a grid of 7: one window is the whole grid
    for parameter in encoder.layers[-1].parameters():
        nn.init.normal_(parameter, std=0.1)
    block = encoder.layers[-1].blocks[-1]
    nn.init.zeros_(block.attn.attention_biases)
    head = SamClipHead(clip_head_config("vit_t", 112, embed_dim=16)).eval()
    report = initialise_from_encoder(head, encoder)
    assert report.resized == ()
    assert len(report.copied) == 3 * 12
    tokens = torch.randn(2, 7, 7, 320)
    expected_attention = block.attn(tokens.flatten(1, 2)).reshape(2, 7, 7, 320)
    for layer in head.layers:
        # LayerNorms differ in epsilon alone: 1e-5 in TinyViT, 1e-6 in SAM's blocks.
        attention = layer.attn(layer.norm1(tokens))
        assert relative_error(attention, expected_attention) < 2e-5
        assert relative_error(layer.mlp(layer.norm2(tokens)), block.mlp(tokens)) < 2e-5
    missing = {f"layers.{i}.attn.rel_pos_{axis}" for i in range(3) for axis in "hw"}
    assert missing <= set(report.untouched)


def test_refuses_an_encoder_of_another_width() -> None:
    with pytest.raises(InputError, match=r"\(32, 2\).*\(320, 10\)"):
        initialise_from_encoder(small_head(), TinyVit(96))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest magnitude."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
