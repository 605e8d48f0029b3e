"""transformers' SAM with the weights of segment-anything's keys, for parity tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import SamConfig, SamModel, SamVisionConfig, SamVisionModel

from samclip.export.models.sam_vit import SamVitConfig

VISION = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm", r"layers.\1.layer_norm"),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)
PROMPTS = (
    (r"^pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"^point_embeddings\.", "point_embed."),
    (r"^mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"^mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"^mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"^mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"^mask_downscaling\.6\.", "mask_embed.conv3."),
)
MASKS = (
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"^output_upscaling\.0\.", "upscale_conv1."),
    (r"^output_upscaling\.1\.", "upscale_layer_norm."),
    (r"^output_upscaling\.3\.", "upscale_conv2."),
    (r"(mlps\.\d|head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|head)\.layers\.2\.", r"\1.proj_out."),
    (r"(mlps\.\d|head)\.layers\.1\.", r"\1.layers.0."),
)


def rename(state: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Rewrite each key by the first rule that matches it."""
    renamed = {}
    for key, value in state.items():
        pattern, replacement = next((rule for rule in rules if re.search(rule[0], key)), ("^", ""))
        renamed[re.sub(pattern, replacement, key)] = value
    return renamed


def vision_config(config: SamVitConfig, image_size: int) -> SamVisionConfig:
    """Our config in transformers' words."""
    return SamVisionConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        image_size=image_size,
        window_size=config.window_size,
        global_attn_indexes=list(config.global_blocks),
        mlp_dim=int(config.width * config.mlp_ratio),
        output_channels=config.out_channels,
    )


def transformers_encoder(
    config: SamVitConfig, image_size: int, state: Mapping[str, Tensor]
) -> SamVisionModel:
    """`SamVisionModel` with the weights `state`, in eval mode."""
    model = SamVisionModel(vision_config(config, image_size))
    model.vision_encoder.load_state_dict(rename(state, VISION))
    return model.eval()


def transformers_sam(prompts: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Any:
    """`SamModel` at 1024 px with these prompt encoder and mask decoder, its encoder minimal.

    transformers gives the decoder's blocks an epsilon of 1e-6; segment-anything has 1e-5.
    """
    tiny = SamVitConfig(width=16, depth=1, num_heads=1, global_blocks=())
    config = SamConfig(
        vision_config=vision_config(tiny, 1024).to_dict() | {"num_pos_feats": 128},
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )
    model = SamModel(config)
    renamed = rename(prompts, PROMPTS)
    model.prompt_encoder.load_state_dict(renamed)
    model.shared_image_embedding.positional_embedding.data.copy_(
        renamed["shared_embedding.positional_embedding"]
    )
    model.mask_decoder.load_state_dict(rename(masks, MASKS))
    return model.eval()
