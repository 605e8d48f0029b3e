"""segment-anything's original modules, loaded from their own files, for parity tests.

The package's `__init__` would ask for torchvision, which none of these files needs, so they are
imported under a private package name. Weights are drawn here too: layers that start at zero, such
as the relative positions, would hide mistakes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samclip.export.models.sam_vit import SamVitConfig

PACKAGE = "_segment_anything_reference"


@cache
def load_package() -> Any:
    """Import the package itself, with what it takes of torchvision stubbed; skip without it."""
    from reference_mask_generator import torchvision_stubs
    from reference_mobile_sam import stubbed

    if importlib.util.find_spec("segment_anything") is None:
        pytest.skip("needs segment-anything: pip install --no-deps segment-anything")
    with stubbed(torchvision_stubs()):
        return importlib.import_module("segment_anything")


@cache
def load_segment_anything(segment_any: Path) -> types.SimpleNamespace:
    """Import `.image_encoder`, `.prompt_encoder`, `.mask_decoder` and `.transformer`."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(segment_any / "segment_anything" / "modeling")]
    sys.modules[PACKAGE] = package
    names = ("image_encoder", "prompt_encoder", "mask_decoder", "transformer")
    modules = {name: importlib.import_module(f"{PACKAGE}.{name}") for name in names}
    return types.SimpleNamespace(**modules)


def reference_encoder(
    segment_any: Path, config: SamVitConfig, image_size: int, state: Mapping[str, Tensor]
) -> Any:
    """The original image encoder with the weights `state`, in eval mode."""
    encoder = load_segment_anything(segment_any).image_encoder.ImageEncoderViT(
        img_size=image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        out_chans=config.out_channels,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_blocks,
    )
    encoder.load_state_dict(state)
    return encoder.eval()


def reference_prompt_encoder(
    segment_any: Path, image_size: int, state: Mapping[str, Tensor]
) -> Any:
    """The original prompt encoder for square images with the weights `state`."""
    grid = image_size // 16
    encoder = load_segment_anything(segment_any).prompt_encoder.PromptEncoder(
        embed_dim=256,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    encoder.load_state_dict(state)
    return encoder.eval()


def reference_mask_decoder(segment_any: Path, state: Mapping[str, Tensor]) -> Any:
    """The original mask decoder with the weights `state`."""
    modules = load_segment_anything(segment_any)
    transformer = modules.transformer.TwoWayTransformer(
        depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048
    )
    decoder = modules.mask_decoder.MaskDecoder(transformer_dim=256, transformer=transformer)
    decoder.load_state_dict(state)
    return decoder.eval()


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter so that activations keep their size and nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight") or (parameter.ndim == 1 and name.endswith("weight")):
            noise = 1 + 0.2 * noise
        elif parameter.ndim > 1 and name.endswith("weight"):
            noise = noise / parameter[0].numel() ** 0.5
        else:
            noise = 0.3 * noise
        parameter.data.copy_(noise)
    return module.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """max |a - b| / max |b|."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())
