from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from reference_open_clip import load_open_clip
from reference_segment_anything import randomise, relative_error
from torch import Tensor, nn

from samclip.export.checkpoints.checkpoint import fit_state
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.ovsam.clip_resnet import (
    RN50,
    RN50X16,
    AttentionPool,
    ClipResNet,
    ResNetConfig,
)
from samclip.export.models.ovsam.keys import clip_resnet_state

SMALL = ResNetConfig(width=16, depths=(2, 1, 2, 1), embed_dim=24, pool_grid=3)


def reference(config: ResNetConfig, seed: int = 0) -> Any:
    """open_clip's ResNet with random weights and random statistics of its batch norms."""
    network = load_open_clip("modified_resnet").ModifiedResNet(
        layers=list(config.depths),
        output_dim=config.embed_dim,
        heads=config.pool_heads,
        image_size=32 * config.pool_grid,
        width=config.width,
    )
    randomise(network, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.3 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
    return network.eval()


def published(network: Any) -> dict[str, Tensor]:
    """Its tensors under the names of a CLIP checkpoint."""
    return {f"visual.{key}": value for key, value in network.state_dict().items()}


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def ours(config: ResNetConfig, network: Any) -> tuple[ClipResNet, AttentionPool]:
    """Our backbone and pool with the weights of open_clip's, by their published names."""
    state = clip_resnet_state(published(network))
    backbone = ClipResNet(config)
    pool = AttentionPool(config.channels[-1], config.pool_grid, config.pool_heads, config.embed_dim)
    fit_state(backbone, below(state, "backbone."), "backbone")
    fit_state(pool, below(state, "clip_roi.pool."), "pool")
    return backbone.eval(), pool.eval()


def reference_levels(network: Any, image: Tensor) -> list[Tensor]:
    x, found = network.stem(image), []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = layer(x)
        found.append(x)
    return found


def check(config: ResNetConfig, image_size: int) -> None:
    network = reference(config)
    backbone, pool = ours(config, network)
    image = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(3))
    expected = reference_levels(network, image)
    for model in (backbone, fold_batch_norms(backbone)):
        for level, other, channels in zip(model(image), expected, config.channels, strict=True):
            assert level.shape[1] == channels
            assert relative_error(level, other) < 1e-5  # float32, sums in another order
    maps = torch.randn(3, config.channels[-1], config.pool_grid, config.pool_grid)
    assert relative_error(pool(maps), network.attnpool(maps)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("image_size", [64, 128])
def test_equals_open_clip(image_size: int) -> None:
    check(SMALL, image_size)
    check(replace(SMALL, depths=(1, 3, 1, 2), pool_grid=4, embed_dim=40), image_size)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("config", [RN50, RN50X16], ids=["RN50", "RN50x16"])
def test_equals_open_clip_in_full(config: ResNetConfig) -> None:
    check(config, 32 * config.pool_grid)


# Published sizes: channels at strides 4 to 32, and the heads of open_clip's attention pool.
@pytest.mark.parametrize(
    ("config", "channels", "heads"),
    [(RN50, (256, 512, 1024, 2048), 32), (RN50X16, (384, 768, 1536, 3072), 48)],
)
def test_sizes(config: ResNetConfig, channels: tuple[int, ...], heads: int) -> None:
    assert (config.channels, config.pool_heads) == (channels, heads)


def test_the_whole_reference_pools_its_last_map() -> None:
    """The parts that are compared one by one together are open_clip's network."""
    network = reference(SMALL)
    backbone, pool = ours(SMALL, network)
    image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert relative_error(pool(backbone(image).stride32), network(image)) < 1e-5
