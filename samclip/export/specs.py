"""What each of the bundle's four graphs takes and gives, by the field's conventional names.

What each of Open-Vocabulary SAM's graphs takes and gives.

The text encoder's is `samclip.export.specs.text_encoder_spec`, CLIP's tower being the same.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from samclip.export.graphs import GraphSpec
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import PATCH, MergedModel
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.ovsam.clip_regions import ClipMaskPool
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import Ovsam, OvsamEncoder
from samclip.export.models.ovsam.roi_classifier import STRIDES
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


PYRAMID = tuple(f"fpn_{stride}" for stride in STRIDES)
OVSAM_ENCODER_OUTPUTS = ("image_embeddings", *PYRAMID, "c5")
OVSAM_DECODER_OUTPUTS = ("low_res_masks",)
ROI_OUTPUTS = ("logits",)
CLIP_ROI_OUTPUTS = ("clip_logits",)
# ONNX has a RoiAlign of opset 22, the same but for bfloat16, that ONNX Runtime's CPU does not run.
ROI_MAX_OPSET = 21
REGIONS = {"boxes": {0: "regions"}, "text": {0: "vocabulary"}}


def ovsam_encoder_spec(model: Ovsam, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xSxS, normalised -> embeddings for the decoder, a pyramid, CLIP's last map."""
    size = model.config.image_size
    encoder = fold_batch_norms(OvsamEncoder(model))  # a copy, so that the lowering is its own
    set_attention_lowering(encoder, lowering)
    return GraphSpec(
        "encoder", encoder, {"image": torch.rand(1, 3, size, size)}, OVSAM_ENCODER_OUTPUTS
    )


def ovsam_mask_decoder_spec(model: Ovsam) -> GraphSpec:
    """Prompts (B prompts of N points each) on one image's embedding -> Bx1 masks."""
    config = model.config
    inputs, dynamic = decoder_inputs(config.image_size, config.neck.out_channels)
    decoder = PromptedLabelDecoder(model.prompt_encoder, model.mask_decoder)
    return GraphSpec("mask_decoder", decoder, inputs, OVSAM_DECODER_OUTPUTS, dynamic)


def roi_classifier_spec(model: Ovsam) -> GraphSpec:
    """`fpn_4` to `fpn_32`, `boxes` Nx4 in pixels of the input, `text` KxD unit rows -> NxK."""
    config = model.config
    levels = {
        name: torch.rand(1, config.fpn_channels, side, side)
        for name, side in zip(PYRAMID, _sides(config.image_size), strict=True)
    }
    inputs = {**levels, **_regions(config.image_size, config.embed_dim)}
    return GraphSpec("roi_classifier", model.roi_classifier, inputs, ROI_OUTPUTS, REGIONS)


def clip_roi_spec(model: Ovsam) -> GraphSpec:
    """`c5` of the encoder, `boxes` and `text` as for the classifier -> NxK logits.

    A ConvNeXt takes `low_res_masks` of the decoder, Nx1xS/4xS/4, in place of boxes.
    """
    config = model.config
    finest, *_, coarsest = _sides(config.image_size)
    inputs = {"c5": torch.rand(1, config.backbone.channels[-1], coarsest, coarsest)}
    regions = _regions(config.image_size, config.embed_dim)
    if isinstance(model.clip_roi, ClipMaskPool):
        inputs["low_res_masks"] = torch.rand(len(regions["boxes"]), 1, finest, finest) - 0.5
        dynamic = {"low_res_masks": {0: "regions"}, "text": {0: "vocabulary"}}
        inputs["text"] = regions["text"]
        return GraphSpec("clip_roi", model.clip_roi, inputs, CLIP_ROI_OUTPUTS, dynamic)
    return GraphSpec("clip_roi", model.clip_roi, inputs | regions, CLIP_ROI_OUTPUTS, REGIONS)


def roi_opset(opset: int) -> int:
    """Tell the opset for the two classifiers when the other graphs have `opset`."""
    return min(opset, ROI_MAX_OPSET)


def _sides(image_size: int) -> list[int]:
    return [image_size // stride for stride in STRIDES]


def _regions(image_size: int, embed_dim: int) -> dict[str, torch.Tensor]:
    """Two boxes, one of them on each side of the limit between two levels; three texts."""
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.4, 0.4, 0.5, 0.5]]) * image_size
    return {"boxes": boxes, "text": torch.nn.functional.normalize(torch.rand(3, embed_dim))}
