"""Image towers read from checkpoints: CLIP in open_clip's layout, Hugging Face's CLIP and SigLIP.

OpenAI's files share open_clip's names. Sizes are read from the weights; what these do not show
comes from the files next to them (`vision_settings`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict, fit_state, some_keys
from samclip.export.checkpoints.declared_sizes import build_declared
from samclip.export.checkpoints.text_checkpoint import HF_MODULES, HF_PROJECTIONS
from samclip.export.checkpoints.vision_settings import VisionSettings, read_vision_settings
from samclip.export.models.clip_vision import ClipVit, ClipVitConfig, split_projections
from samclip.export.models.clip_vision_resnet import (
    ClipResNetTower,
    describe_resnet,
    resnet_image_size,
)
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.keys import clip_resnet_state

OPEN_CLIP, HUGGING_FACE, TIMM = "visual.", "vision_model.", "visual.trunk."
LAYERS = re.compile(r"transformer\.resblocks\.(\d+)\.")
HF_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding": "conv1",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",  # as transformers spells it
    "post_layernorm": "ln_post",
    "head.probe": "pool.probe",
    "head.attention": "pool.attn",
    "head.layernorm": "pool.ln",
    "head.mlp.fc1": "pool.mlp.c_fc",
    "head.mlp.fc2": "pool.mlp.c_proj",
}
HF_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
HF_UNUSED = "embeddings.position_ids"
EXPECTED = (
    "Expected a CLIP in open_clip's layout (visual.*: a ViT or a ResNet), or Hugging Face's CLIP "
    "or SigLIP (vision_model.*)."
)


@dataclass(frozen=True)
class VisionTower:
    """An image tower with its weights, in eval mode, and its preprocessing.

    It maps Nx3xSxS to NxD and NxDxgxg, with S `image_size`, D `embed_dim` and g `grid`.
    """

    module: nn.Module
    model: str  # a short description for people
    embed_dim: int
    image_size: int
    grid: int
    settings: VisionSettings


def has_vision(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds an image tower of a family that we know."""
    return checkpoint.has(OPEN_CLIP) or checkpoint.has(HUGGING_FACE)


def read_vision(checkpoint: Checkpoint, quick_gelu: bool | None = None) -> VisionTower:
    """Build the image tower of a CLIP checkpoint, with its weights.

    `quick_gelu` None takes the activation from the files next to the weights, which do not show it.
    Raises CheckpointError when there is no tower, or it does not fit.
    """
    with error_context(checkpoint.path.name):
        if checkpoint.has(HUGGING_FACE):
            return _read_vit(checkpoint, _from_hugging_face(checkpoint), quick_gelu)
        if checkpoint.has(TIMM):
            raise CheckpointError(
                f"the image tower is one of the library timm ({TIMM}*), as open_clip's SigLIP and "
                f"ConvNeXt have it. {EXPECTED}"
            )
        if not checkpoint.has(OPEN_CLIP):
            raise CheckpointError(
                f"there is no image tower in it, only {some_keys(checkpoint.state)}. {EXPECTED}"
            )
        if checkpoint.has("visual.layer1."):
            return _read_resnet(checkpoint)
        return _read_vit(checkpoint, _floats(checkpoint.part(OPEN_CLIP)), quick_gelu)


def _floats(state: Mapping[str, Tensor]) -> StateDict:
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }


def _read_vit(checkpoint: Checkpoint, state: StateDict, quick_gelu: bool | None) -> VisionTower:
    siglip = "pool.probe" in state
    settings = read_vision_settings(checkpoint, siglip=siglip, quick_gelu=quick_gelu)
    config = infer_vit_config(state, settings, "attention" if siglip else "token")
    file = checkpoint.path.name
    module = build_declared(lambda: ClipVit(config), state, (config.layers,), file)
    fit_state(module, split_projections(state, config), f"image tower of {file}")
    return VisionTower(
        module.eval(),
        config.model,
        config.embed_dim,
        config.image_size,
        config.grid,
        settings,
    )


def infer_vit_config(
    state: Mapping[str, Tensor], settings: VisionSettings, pool: Literal["token", "attention"]
) -> ClipVitConfig:
    """Return the sizes of a transformer under our names; `settings` has what weights do not show.

    Raises CheckpointError for a tower that lacks parts, or whose sizes do not fit together.
    """
    patches = _shape(state, "conv1.weight", 4)
    positions, width = _shape(state, "positional_embedding", 2)
    mlp_width, _ = _shape(state, "transformer.resblocks.0.mlp.c_fc.weight", 2)
    layers = {int(found[1]) for key in state if (found := LAYERS.match(key))}
    tokens, patch = positions - (pool == "token"), patches[-1]
    grid = math.isqrt(max(tokens, 0))
    size = settings.image_size or grid * patch
    heads = settings.heads_of(width)
    if grid**2 != tokens or not grid or patch != patches[-2] or size // patch != grid:
        raise CheckpointError(
            f"it has {positions} positions for patches of {patches[-2]} x {patch} pixels in images "
            f"of {size}; only square images are supported"
        )
    if width % heads:
        raise CheckpointError(f"{heads} heads do not divide its width of {width}")
    if layers != set(range(len(layers))):
        raise CheckpointError(f"some of its layers are missing: it has {sorted(layers)}")
    embed_dim = width if pool == "attention" else _shape(state, "proj", 2)[1]
    return ClipVitConfig(
        width=width,
        heads=heads,
        layers=len(layers),
        mlp_width=mlp_width,
        embed_dim=embed_dim,
        image_size=size,
        patch=patch,
        activation=settings.activation,
        pool=pool,
        eps=1e-6 if pool == "attention" else 1e-5,
    )


def _shape(state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    if key not in state or state[key].dim() != axes or not state[key].numel():
        raise CheckpointError(
            f"the image tower has no {key} of {axes} axes, found {some_keys(state) or 'none'}. "
            f"{EXPECTED}"
        )
    return tuple(state[key].shape)


def _read_resnet(checkpoint: Checkpoint) -> VisionTower:
    visual = {key: value for key, value in checkpoint.state.items() if key.startswith(OPEN_CLIP)}
    renamed = clip_resnet_state(visual)
    state = _floats({key.removeprefix("clip_roi."): value for key, value in renamed.items()})
    settings = read_vision_settings(checkpoint, siglip=False, is_vit=False)
    config = infer_resnet_config(state)
    file = checkpoint.path.name
    module = build_declared(lambda: ClipResNetTower(config), state, config.depths, file)
    fit_state(module, state, f"image tower of {file}")
    size = resnet_image_size(config)
    return VisionTower(
        module.eval(),
        describe_resnet(config),
        config.embed_dim,
        size,
        config.pool_grid,
        settings,
    )


def infer_resnet_config(state: Mapping[str, Tensor]) -> ResNetConfig:
    """Return the sizes of a ResNet under our names; raises CheckpointError for missing parts."""
    width = _shape(state, "backbone.conv3.c.weight", 4)[0]
    positions, _ = _shape(state, "pool.positional_embedding", 2)
    embed_dim, _ = _shape(state, "pool.attention.out_proj.weight", 2)
    depths = tuple(
        len({key.split(".")[2] for key in state if key.startswith(f"backbone.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    grid = math.isqrt(positions - 1)
    if grid**2 != positions - 1 or not grid:
        raise CheckpointError(f"its pooling has {positions} positions, expected a square and one")
    one, two, three, four = depths
    return ResNetConfig(width, (one, two, three, four), embed_dim, grid)


def _from_hugging_face(checkpoint: Checkpoint) -> StateDict:
    """Rename Hugging Face's image tower; raises CheckpointError for keys that are not of one."""
    state, unknown = _floats(checkpoint.part(HUGGING_FACE)), []
    found: StateDict = {}
    layers: set[int] = set()
    for key, value in state.items():
        layer = HF_LAYER.fullmatch(key)
        root = next((name for name in HF_NAMES if key == name or key.startswith(f"{name}.")), None)
        if root is not None:
            found[HF_NAMES[root] + key.removeprefix(root)] = value
        elif layer and layer[2] in HF_MODULES:
            found[f"transformer.resblocks.{layer[1]}.{HF_MODULES[layer[2]]}.{layer[3]}"] = value
        elif layer and layer[2] in HF_PROJECTIONS:
            layers.add(int(layer[1]))
        elif key != HF_UNUSED:
            unknown.append(key)
    if unknown:
        raise CheckpointError(f"its image tower has unexpected {some_keys(unknown)}. {EXPECTED}")
    for number in layers:
        for kind in ("weight", "bias"):
            names = [f"encoder.layers.{number}.{name}.{kind}" for name in HF_PROJECTIONS]
            if missing := [name for name in names if name not in state]:
                raise CheckpointError(
                    f"the image tower lacks {some_keys(missing)}; is it complete?"
                )
            fused = torch.cat([state[name] for name in names])  # 3W[, W]
            found[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = fused
    if "visual_projection.weight" in checkpoint.state:
        found["proj"] = checkpoint.state["visual_projection.weight"].float().T.contiguous()  # W, D
    return found
