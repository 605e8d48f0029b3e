"""What each of Open-Vocabulary SAM's graphs takes and gives.

The text encoder's is `samclip.export.specs.text_encoder_spec`, CLIP's tower being the same.
"""

from __future__ import annotations

import torch

from samclip.export.graphs import GraphSpec
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.conv_norm import fold_batch_norms
from samclip.export.models.ovsam.clip_mask_pool import ClipMaskPool
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.levels import STRIDES
from samclip.export.models.ovsam.model import Ovsam, OvsamEncoder
from samclip.export.specs import decoder_inputs

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
