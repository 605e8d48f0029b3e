from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference_segment_anything import randomise, relative_error
from torch import Tensor
from transformers import ConvNextConfig as TheirConfig
from transformers import ConvNextModel

from samclip.errors import CheckpointError
from samclip.export.models.ovsam.clip_regions import ClipMaskPool, at_centres
from samclip.export.models.ovsam.convnext import CONVNEXT_LARGE_D_320, ConvNext, ConvNextConfig
from samclip.export.models.ovsam.keys import clip_convnext_state
from samclip.export.models.ovsam.model import OVSAM_CONFIGS, Ovsam

SMALL = ConvNextConfig((8, 12, 16, 20), (2, 1, 3, 1), embed_dim=24)
THEIRS = (
    (r"^stem\.0\.", "embeddings.patch_embeddings."),
    (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^stages\.(\d)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"encoder.stages.\1.layers.\2."),
)
LAYERS = {"conv_dw": "dwconv", ".norm": ".layernorm", "mlp.fc1": "pwconv1", "mlp.fc2": "pwconv2"}
LAYERS["gamma"] = "layer_scale_parameter"


def reference(config: ConvNextConfig, ours: ConvNext) -> Any:
    """transformers' ConvNeXt with our weights."""
    model = ConvNextModel(
        TheirConfig(hidden_sizes=list(config.channels), depths=list(config.depths))
    )
    state = {f"layernorm.{k}": v for k, v in model.layernorm.state_dict().items()}
    for key, value in ours.state_dict().items():
        name = key
        for pattern, replacement in THEIRS:
            name = re.sub(pattern, replacement, name)
        if ".layers." in name:
            for mine, their in LAYERS.items():
                name = name.replace(mine, their)
        state[name] = value
    model.load_state_dict(state)
    return model.eval()


def check(config: ConvNextConfig, image_size: int) -> None:
    ours = ConvNext(config)
    randomise(ours)
    image = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    levels = ours(image)
    expected = reference(config, ours)(image, output_hidden_states=True).hidden_states[1:]
    for level, other, width in zip(levels, expected, config.channels, strict=True):
        assert level.shape[1] == width
        assert relative_error(level, other) < 1e-5  # float32


@torch.no_grad()
@pytest.mark.parametrize("image_size", [64, 160])
def test_equals_transformers(image_size: int) -> None:
    check(SMALL, image_size)


@torch.no_grad()
@pytest.mark.slow
def test_equals_transformers_in_full() -> None:
    check(CONVNEXT_LARGE_D_320, 128)


def published_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """The visual side of open_clip's convnext_large_d_320, by timm's names."""
    widths = (192, 384, 768, 1536)
    yield "trunk.stem.0.weight", (192, 3, 4, 4)
    yield from ((f"trunk.stem.{name}", (192,)) for name in ("0.bias", "1.weight", "1.bias"))
    for stage, (width, depth) in enumerate(zip(widths, (3, 3, 27, 3), strict=True)):
        name = f"trunk.stages.{stage}"
        if stage:
            before = widths[stage - 1]
            yield from ((f"{name}.downsample.0.{kind}", (before,)) for kind in ("weight", "bias"))
            yield f"{name}.downsample.1.weight", (width, before, 2, 2)
            yield f"{name}.downsample.1.bias", (width,)
        for block in range(depth):
            inner = f"{name}.blocks.{block}"
            yield f"{inner}.conv_dw.weight", (width, 1, 7, 7)
            yield f"{inner}.mlp.fc1.weight", (4 * width, width)
            yield f"{inner}.mlp.fc1.bias", (4 * width,)
            yield f"{inner}.mlp.fc2.weight", (width, 4 * width)
            flat = ("gamma", "conv_dw.bias", "norm.weight", "norm.bias", "mlp.fc2.bias")
            yield from ((f"{inner}.{part}", (width,)) for part in flat)
    yield from ((f"trunk.head.norm.{kind}", (1536,)) for kind in ("weight", "bias"))
    yield "head.mlp.fc1.weight", (1536, 1536)
    yield "head.mlp.fc1.bias", (1536,)
    yield "head.mlp.fc2.weight", (768, 1536)


def test_every_published_tensor_has_its_place() -> None:
    state = {f"visual.{k}": torch.empty(s, device="meta") for k, s in published_shapes()}
    renamed = {k: tuple(v.shape) for k, v in clip_convnext_state(state).items()}
    with torch.device("meta"):
        model = Ovsam(OVSAM_CONFIGS["ovsam-convnext-l"])
    parts = ("backbone.", "clip_roi.")
    own = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith(parts)}
    assert renamed == own


def test_the_model_has_its_published_number_of_parameters() -> None:
    """321 M (Open-Vocabulary SAM): all but the text tower."""
    with torch.device("meta"):
        model = Ovsam(OVSAM_CONFIGS["ovsam-convnext-l"])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 321


def test_a_resnet_is_refused() -> None:
    with pytest.raises(CheckpointError, match="convnext_large_d_320"):
        clip_convnext_state({"visual.conv1.weight": torch.zeros(1)})


def logits(count: int, side: int) -> Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_centres_are_those_of_torch_interpolation(factor: int) -> None:
    masks = logits(3, 6 * factor)
    expected = F.interpolate(masks, size=(6, 6), mode="bilinear", align_corners=False)
    assert torch.allclose(at_centres(masks, 6), expected, atol=1e-6)


@torch.no_grad()
def test_pool_averages_inside_the_mask() -> None:
    pool = ClipMaskPool(SMALL)
    randomise(pool)
    c5 = torch.randn(1, 20, 4, 4, generator=torch.Generator().manual_seed(4))
    masks = torch.full((2, 1, 32, 32), -1.0)
    masks[0, 0, :16, :8] = 1  # two cells below each other
    masks[1, 0, 24:, 24:] = 1
    means = torch.stack([c5[0, :, :2, 0].mean(dim=1), c5[0, :, 3, 3]])
    normal = (means - means.mean(1, True)) / (means.var(1, unbiased=False, keepdim=True)).sqrt()
    normal = normal * pool.norm.weight + pool.norm.bias
    hidden = F.gelu(normal @ pool.mlp.fc1.weight.T + pool.mlp.fc1.bias)
    assert relative_error(pool.embed(c5, masks), hidden @ pool.mlp.fc2.weight.T) < 1e-4
