"""transformers' RadioModel with the weights of a checkpoint's names, for parity tests.

Its conversion has no rule for LayerScale, and takes its absence in silence; so the weights are set
here one by one, every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import RadioConfig, RadioModel

from samclip.export.models.radio.sizes import RadioSize, TrunkConfig
from samclip.export.models.radio.trunk import RadioTrunk, resize_positions

RULES = (
    (r"^patch_generator\.embedder\.", "embeddings.patch_projection."),
    (r"^patch_generator\.pos_embed", "embeddings.position_embedding"),
    (r"^patch_generator\.cls_token\.token", "embeddings.cls_register_token"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.ls(\d)\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.", "encoder.layer."),
)


def reference_radio(size: RadioSize, state: Mapping[str, Tensor], prefix: int) -> Any:
    """transformers' model; `state` has names below `base_model.`, and all must find a place."""
    config = RadioConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.num_heads,
        mlp_ratio=(size.hidden or 4 * size.width) / size.width,
        num_cls_tokens=4,
        num_registers=prefix - 4,
        norm_mean=(0.0, 0.0, 0.0),
        norm_std=(1.0, 1.0, 1.0),
    )
    with torch.device("meta"):
        model = RadioModel(config)
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        qkv = re.match(r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", key)
        if qkv is not None:
            for part, each in zip("qkv", value.chunk(3), strict=True):
                named[f"encoder.layer.{qkv[1]}.attention.{part}_proj.{qkv[2]}"] = each
            continue
        rule = next((r for r in RULES if re.match(r[0], key)), None)
        named[re.sub(*rule, key) if rule else key] = value
    own = model.state_dict()
    if not size.layer_scale:
        named |= {key: torch.ones(size.width) for key in own if "layer_scale" in key}
    named["input_conditioner.norm_mean"] = torch.zeros(3, 1, 1)
    named["input_conditioner.norm_std"] = torch.ones(3, 1, 1)
    named["summary_idxs"] = torch.tensor(config.summary_idxs)
    named = {key: value for key, value in named.items() if key in own or "summary" not in key}
    assert own.keys() <= named.keys(), own.keys() - named.keys()
    model.load_state_dict(named, assign=True)
    return model.eval()


def trunk_of(
    size: RadioSize,
    state: Mapping[str, Tensor],
    image_size: tuple[int, int],
    window_size: int = 0,
    align_corners: bool = False,
) -> RadioTrunk:
    """Our trunk with the same weights, for (height, width) pixels."""
    prefix = state["patch_generator.cls_token.token"]
    config = TrunkConfig(
        width=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        hidden=size.hidden or 4 * size.width,
        prefix=len(prefix),
        image_size=image_size,
        layer_scale=bool(size.layer_scale),
        window_size=window_size,
    )
    with torch.device("meta"):
        trunk = RadioTrunk(config)
    own = {key: value for key, value in state.items() if key.startswith("blocks.")}
    own["prefix"] = prefix
    own["embedder.weight"] = state["patch_generator.embedder.weight"].reshape(-1, 3, 16, 16)
    table = state["patch_generator.pos_embed"]
    own["positions"] = resize_positions(table, config.grid, align_corners)
    trunk.load_state_dict(own, assign=True)
    return trunk.eval()
