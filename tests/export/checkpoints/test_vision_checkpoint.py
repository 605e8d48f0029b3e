"""Image towers read from checkpoints, against open_clip's and transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference_open_clip import (
    perturb,
    reference_image_tower,
    reference_resnet,
    save_clip,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.vision_checkpoint import VisionTower, read_vision

# Sums of up to 3072 float32 products in another order, over up to 24 layers; relative to the
# largest number. A wrong activation, norm or head count differs by 1e-2 and more.
TOLERANCE = 2e-5
SMALL = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "mlp_ratio": 4.0}
B32 = {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12, "mlp_ratio": 4.0}
L14 = {"image_size": 224, "patch_size": 14, "width": 1024, "layers": 24, "mlp_ratio": 4.0}
slow = pytest.mark.slow


def check(tower: VisionTower, image: Tensor, dense: Tensor, images: Tensor) -> None:
    """Compare a tower's embeddings, NxD and NxDxgxg, with the reference's."""
    with torch.inference_mode():
        found = tower.module(images)
    assert found[1].shape == (len(images), tower.embed_dim, tower.grid, tower.grid)
    for ours, theirs in zip(found, (image, dense), strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < TOLERANCE


def pictures(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(4))


def on_grid(tokens: Tensor) -> Tensor:
    """NxLxD to NxDxgxg, by loops that leave no doubt about the order of rows and columns."""
    grid = round(tokens.shape[1] ** 0.5)
    rows = [tokens[:, row * grid : (row + 1) * grid].transpose(1, 2) for row in range(grid)]
    return torch.stack(rows, dim=2)


def value_path(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """What the value and output matrices make of each token."""
    width = tokens.shape[-1]
    weight, bias = attention.in_proj_weight[-width:], attention.in_proj_bias[-width:]
    return attention.out_proj(F.linear(tokens, weight, bias))


@torch.inference_mode()
def maskclip_of_vit(tower: Any, images: Tensor) -> Tensor:
    """MaskCLIP's dense features from open_clip's own modules: NxDxgxg."""
    seen: list[Tensor] = []
    last = tower.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(images)
    hook.remove()
    x = seen[0]
    x = x + value_path(last.attn, last.ln_1(x))
    x = x + last.mlp(last.ln_2(x))
    return on_grid((tower.ln_post(x) @ tower.proj)[:, 1:])


@pytest.mark.parametrize(
    ("sizes", "heads", "dim", "quick_gelu", "described"),
    [
        (SMALL, 1, 24, False, {}),
        (SMALL, 4, 24, True, {"width": 64, "head_width": 16}),
        pytest.param(B32, 12, 512, True, {}, marks=slow),
        pytest.param(L14, 16, 768, False, {}, marks=slow),
    ],
)
def test_open_clips_transformers(
    sizes: dict[str, Any],
    heads: int,
    dim: int,
    quick_gelu: bool,
    described: dict[str, Any],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    theirs = reference_image_tower(quick_gelu, **sizes, heads=heads, output_dim=dim)
    config = {"model_cfg": {"quick_gelu": quick_gelu, "vision_cfg": described}}
    tower = read_vision(read_checkpoint(save_clip(tmp_path, theirs, dim, config)))
    images = pictures(sizes["image_size"])
    with torch.inference_mode():
        check(tower, theirs(images), maskclip_of_vit(theirs, images), images)
    assert (tower.image_size, tower.embed_dim) == (sizes["image_size"], dim)
    assert ("QuickGELU" in tower.model) == quick_gelu


@pytest.mark.parametrize(
    ("layers", "width", "dim", "size"),
    [((2, 1, 1, 1), 16, 24, 96), pytest.param((3, 4, 6, 3), 64, 1024, 224, marks=slow)],
)
def test_open_clips_resnets(
    layers: tuple[int, ...], width: int, dim: int, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs: Any = reference_resnet(
        layers=layers, output_dim=dim, heads=width * 32 // 64, image_size=size, width=width
    )
    path = save_clip(tmp_path, theirs, dim, {"model_cfg": {"quick_gelu": True}})
    tower = read_vision(read_checkpoint(path))
    images = pictures(size)
    cells: list[Tensor] = []
    theirs.attnpool.register_forward_pre_hook(lambda _, inputs: cells.append(inputs[0]))
    with torch.inference_mode():
        expected = theirs(images)
        tokens = cells[0].flatten(2).transpose(1, 2)
        dense = theirs.attnpool.c_proj(theirs.attnpool.v_proj(tokens))
        check(tower, expected, on_grid(dense), images)
    assert (tower.image_size, tower.grid) == (size, size // 32)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "image_size": 32},
        pytest.param(
            {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224}, marks=slow
        ),
    ],
)
def test_hugging_faces_clip(sizes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(**sizes, patch_size=8 if sizes["image_size"] == 32 else 32)
    theirs = CLIPVisionModelWithProjection(config).eval()
    perturb(theirs)
    tower = read_saved(theirs.state_dict(), {"vision_config": config.to_dict()}, tmp_path)
    images = pictures(sizes["image_size"])
    with torch.inference_mode():
        out = theirs(images, output_hidden_states=True)
        last = theirs.vision_model.encoder.layers[-1]
        x = out.hidden_states[-2]  # before the last block
        x = x + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(x)))
        x = x + last.mlp(last.layer_norm2(x))
        dense = theirs.visual_projection(theirs.vision_model.post_layernorm(x))[:, 1:]
    check(tower, out.image_embeds, on_grid(dense), images)
    assert tower.settings.resize == "shortest_side"
    assert tower.settings.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


@pytest.mark.parametrize(
    "sizes",
    [
        # 36 pixels are four patches of 8 and four pixels that no patch sees
        {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 36},
        pytest.param(
            {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224}, marks=slow
        ),
    ],
)
def test_hugging_faces_siglip(sizes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(**sizes, patch_size=8 if sizes["image_size"] == 36 else 16)
    theirs = SiglipVisionModel(config).eval()
    perturb(theirs)
    state = theirs.state_dict()
    prefix = "" if any(key.startswith("vision_model.") for key in state) else "vision_model."
    state = {prefix + key: value for key, value in state.items()}
    file = {"model_type": "siglip", "vision_config": config.to_dict()}
    tower = read_saved(state, file, tmp_path)
    images = pictures(sizes["image_size"])
    with torch.inference_mode():
        out = theirs(images)
        inner = getattr(theirs, "vision_model", theirs)
        x = value_path(inner.head.attention, out.last_hidden_state)
        x = x + inner.head.mlp(inner.head.layernorm(x))
    check(tower, out.pooler_output, on_grid(x), images)
    assert tower.settings.resize == "squash"
    assert tower.settings.mean == (0.5, 0.5, 0.5)


def read_saved(state: dict[str, Tensor], config: dict[str, Any], folder: Path) -> VisionTower:
    contiguous = {key: value.clone().contiguous() for key, value in state.items()}
    save_file(contiguous, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, default=str), "utf-8")
    return read_vision(read_checkpoint(folder))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tower = reference_image_tower(**SMALL, heads=1, output_dim=24)
    path = save_clip(folder, tower, 24, {"model_cfg": {}})
    return dict(read_checkpoint(path).state)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "give --quick-gelu"),
        ({"model_cfg": {"vision_cfg": {"timm_model_name": "vit_base"}}}, "timm_model_name"),
        ({"model_cfg": {"vision_cfg": {"pool_type": "avg"}}}, "pool_type"),
        ({"model_cfg": {"vision_cfg": {"image_size": 48}}}, r"17 positions .* 8 x 8 .* of 48"),
        ({"model_cfg": {"vision_cfg": {"image_size": "large"}}}, "expected a whole number"),
        ({"model_cfg": {"vision_cfg": {"width": 64, "head_width": 7}}}, "9 heads do not divide"),
        ({"model_cfg": {}, "preprocess_cfg": {"mean": [1, 2]}}, "three numbers"),
        ({"model_cfg": {}, "preprocess_cfg": {"interpolation": "nearest"}}, "'nearest'"),
        ({"model_cfg": {}, "preprocess_cfg": {"resize_mode": "longest"}}, "'longest'"),
    ],
)
def test_settings_that_would_give_wrong_answers(
    small: dict[str, Tensor], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    torch.save(small, tmp_path / "clip.pt")
    if config:
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_vision(read_checkpoint(tmp_path / "clip.pt"))


@pytest.mark.parametrize(
    ("theirs", "resize"),
    [
        ({"size": 32, "crop_size": 32}, "shortest_side"),
        (
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
            "shortest_side",
        ),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, "squash"),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}, None),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": True}, None),
    ],
)
def test_hugging_faces_preprocessing(
    small: dict[str, Tensor], theirs: dict[str, Any], resize: str | None, tmp_path: Path
) -> None:
    torch.save(small, tmp_path / "clip.pt")
    content = {**theirs, "image_mean": [0.1, 0.2, 0.3], "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content), "utf-8")
    checkpoint = read_checkpoint(tmp_path / "clip.pt")
    if resize is None:
        with pytest.raises(CheckpointError, match=r"preprocessor_config\.json asks for size"):
            read_vision(checkpoint, quick_gelu=False)
        return
    settings = read_vision(checkpoint, quick_gelu=False).settings
    assert (settings.resize, settings.interpolation) == (resize, "pillow_bilinear")
    assert settings.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("visual.proj", "no proj of 2 axes"),
        ("visual.ln_pre.bias", "missing: ln_pre.bias"),
        ("visual.transformer.resblocks.1.", "some of its layers are missing"),
        ("visual.", "no image tower"),
    ],
)
def test_what_is_missing_is_named(
    small: dict[str, Tensor], lost: str, message: str, tmp_path: Path
) -> None:
    kept = {key: value for key, value in small.items() if not key.startswith(lost)}
    torch.save(kept, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=message):
        read_vision(read_checkpoint(tmp_path / "clip.pt"), quick_gelu=False)
