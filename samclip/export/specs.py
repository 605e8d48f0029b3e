"""What each of the bundle's four graphs takes and gives, by the field's conventional names."""

from __future__ import annotations

import copy

import torch
from torch import nn

from samclip.export.graphs import GraphSpec
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.conv_norm import fold_batch_norms
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import PATCH, MergedModel
from samclip.export.models.text_tower import TextTower

ENCODER_OUTPUTS = ("backbone_features", "image_embeddings")
HEAD_OUTPUTS = ("image_embed", "patch_embeds")
DECODER_OUTPUTS = ("iou_predictions", "low_res_masks")
TEXT_OUTPUTS = ("text_embeddings",)


def encoder_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xSxS, normalised -> the features before SAM's neck, and behind it."""
    size = model.config.image_size
    encoder = fold_batch_norms(_lowered(model.image_encoder, lowering))
    return GraphSpec("encoder", encoder, {"image": torch.rand(1, 3, size, size)}, ENCODER_OUTPUTS)


def clip_head_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`backbone_features` 1xCxGxG and `token_mask` 1xgxg -> 1xD and 1xDxgxg, not normalised."""
    grid, tokens = model.image_encoder.backbone_grid, model.clip_head.config.tokens
    inputs = {
        "backbone_features": torch.rand(1, model.image_encoder.backbone_channels, grid, grid),
        "token_mask": torch.ones(1, tokens, tokens),
    }
    head = fold_batch_norms(_lowered(model.clip_head, lowering))
    return GraphSpec("clip_head", head, inputs, HEAD_OUTPUTS)


def mask_decoder_spec(model: MergedModel) -> GraphSpec:
    """Prompts (B prompts of N points each) on one image's embedding -> Bx4 masks and their IoU."""
    inputs, dynamic = decoder_inputs(model.config.image_size)
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    return GraphSpec("mask_decoder", decoder, inputs, DECODER_OUTPUTS, dynamic)


def decoder_inputs(
    image_size: int, channels: int = 256
) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    """Make examples of what a prompted decoder takes, by name, and say which axes vary."""
    grid, prompts, points = image_size // PATCH, 2, 3
    inputs = {
        "image_embeddings": torch.rand(1, channels, grid, grid),
        "point_coords": torch.rand(prompts, points, 2) * image_size,
        "point_labels": torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 1.0]]),
        "mask_input": torch.rand(prompts, 1, 4 * grid, 4 * grid),
        "has_mask_input": torch.tensor([0.0, 1.0]),
    }
    batch, both = {0: "prompts"}, {0: "prompts", 1: "points"}
    dynamic = {
        "point_coords": both,
        "point_labels": both,
        "mask_input": batch,
        "has_mask_input": batch,
    }
    return inputs, dynamic


def text_encoder_spec(tower: TextTower | BertTower) -> GraphSpec:
    """`tokens` NxL int64 -> `text_embeddings` NxD, not normalised."""
    tokens = torch.zeros(2, tower.config.context_length, dtype=torch.int64)
    return GraphSpec(
        "text_encoder", tower, {"tokens": tokens}, TEXT_OUTPUTS, {"tokens": {0: "texts"}}
    )


def _lowered(module: nn.Module, lowering: Lowering) -> nn.Module:
    """Copy a module with every relative-position attention in the given form."""
    copied = copy.deepcopy(module).eval()
    set_attention_lowering(copied, lowering)
    return copied
