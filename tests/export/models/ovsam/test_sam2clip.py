from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference_segment_anything import load_segment_anything, randomise, relative_error
from torch import Tensor, nn

from samclip.export.models.attention import LOWERINGS, set_attention_lowering
from samclip.export.models.ovsam.roi_classifier import STRIDES, Levels
from samclip.export.models.ovsam.sam2clip import SAM_H_NECK, NeckConfig, Sam2ClipNeck

SMALL = NeckConfig(width=32, depth=3, num_heads=2, window_size=3, out_channels=16)
CHANNELS = (6, 10, 12, 20)


def random_levels(image_size: int, channels: tuple[int, ...] = CHANNELS) -> Levels:
    generator = torch.Generator().manual_seed(2)
    sides = [image_size // stride for stride in STRIDES]
    maps = [
        torch.randn(1, width, side, side, generator=generator)
        for width, side in zip(channels, sides, strict=True)
    ]
    return Levels(*maps)


def random_neck(config: NeckConfig, image_size: int, channels: tuple[int, ...] = CHANNELS) -> Any:
    neck = Sam2ClipNeck(config, channels, image_size)
    randomise(neck)
    neck.pos_embed.normal_(generator=torch.Generator().manual_seed(1))
    return neck


def reference(segment_any: Path, neck: Sam2ClipNeck, config: NeckConfig, levels: Levels) -> Tensor:
    """The neck of segment-anything's own blocks and neck, and convolutions as functions."""
    modules = load_segment_anything(segment_any).image_encoder
    encoder = modules.ImageEncoderViT(
        img_size=16 * neck.grid,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        out_chans=config.out_channels,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=(config.depth - 1,),
    ).eval()
    encoder.blocks.load_state_dict(neck.blocks.state_dict())
    encoder.neck.load_state_dict(neck.neck.state_dict())
    parts = [(p.weight, p.bias) for p in neck.patch_embeds]
    sides = (4, 2, 1)
    maps = [F.conv2d(m, w, b, stride=s) for m, (w, b), s in zip(levels, parts, sides)]  # noqa: B905
    maps.append(F.conv_transpose2d(levels.stride32, *parts[3], stride=2))
    total = sum(m + e[:, None, None] for m, e in zip(maps, neck.level_encoding.weight, strict=True))
    x = total.permute(0, 2, 3, 1) + neck.pos_embed
    for block in encoder.blocks:
        x = block(x)
    out: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return out


@torch.no_grad()
@pytest.mark.parametrize("image_size", [64, 160])
def test_equals_segment_anything_blocks(image_size: int, mobile_sam_reference: Path) -> None:
    neck, levels = random_neck(SMALL, image_size), random_levels(image_size)
    expected = reference(mobile_sam_reference, neck, SMALL, levels)
    assert expected.shape == (1, 16, image_size // 16, image_size // 16)
    for lowering in LOWERINGS:
        set_attention_lowering(neck, lowering)
        assert relative_error(neck(levels), expected) < 1e-5, lowering  # float32


@torch.no_grad()
@pytest.mark.slow
def test_equals_segment_anything_blocks_in_full(mobile_sam_reference: Path) -> None:
    channels = (384, 768, 1536, 3072)
    neck, levels = random_neck(SAM_H_NECK, 1024, channels), random_levels(1024, channels)
    expected = reference(mobile_sam_reference, neck, SAM_H_NECK, levels)
    assert relative_error(neck(levels), expected) < 2e-5  # float32, 1280 channels


@torch.no_grad()
def test_every_level_and_its_encoding_counts() -> None:
    neck, levels = random_neck(SMALL, 64), random_levels(64)
    before = neck(levels)
    for index in range(len(levels)):
        silent = Levels(*(m * (place != index) for place, m in enumerate(levels)))
        assert relative_error(neck(silent), before) > 1e-2
        neck.level_encoding.weight[index] += 1
        after = neck(levels)
        assert relative_error(after, before) > 1e-2
        before = after
