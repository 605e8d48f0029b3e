"""Open-Vocabulary SAM as the exporter sees it: encoder, mask decoder and two region classifiers.

One classifier is trained, on the features of a pyramid; the other is CLIP itself.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import Tensor

from samclip.export.exportable import Exportable
from samclip.export.families.decoder_prompts import (
    DYNAMIC_AXES,
    decoder_graphs,
    decoder_samples,
    tracing_prompts,
)
from samclip.export.families.ovsam_assembly import OvsamAssembly, encode_ovsam
from samclip.export.graphs import GraphSpec, LoweredGraph, PlainGraph
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.ovsam.clip_regions import ClipMaskPool
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import Ovsam, OvsamEncoder
from samclip.export.models.ovsam.roi_classifier import FINEST_SCALE, LOGIT_SCALE, STRIDES
from samclip.export.text_part import TextPart
from samclip.export.verification import Sample, make_sample
from samclip.runtime.bundles.manifest import Preprocessing, RegionHead
from samclip.runtime.pixels.image import Letterbox, load_image, preprocess

TEMPLATES = "vild"  # the set that the released model builds its classifier from
TEXTS = 16  # texts that regions are compared with while graphs are verified
PYRAMID = tuple(f"fpn_{stride}" for stride in STRIDES)
OVSAM_ENCODER_OUTPUTS = ("image_embeddings", *PYRAMID, "c5")
OVSAM_DECODER_OUTPUTS = ("low_res_masks",)
ROI_OUTPUTS = ("logits",)
CLIP_ROI_OUTPUTS = ("clip_logits",)
# RoiAlign of opset 22 differs only in bfloat16, and ONNX Runtime's CPU does not run it.
ROI_MAX_OPSET = 21
REGIONS = {"boxes": {0: "regions"}, "text": {0: "vocabulary"}}


def ovsam_exportable(assembly: OvsamAssembly) -> Exportable:
    """Return everything of an Open-Vocabulary SAM that goes into a bundle."""
    model, metadata = assembly.model, assembly.metadata
    pixels = Preprocessing(image_size=metadata.image_size, mean=metadata.mean, std=metadata.std)
    width = model.config.embed_dim
    text = replace(metadata.text, logit_scale=LOGIT_SCALE)  # of the classifiers, not of CLIP
    return Exportable(
        model_type=metadata.model_type,
        pixels=pixels,
        head=RegionHead(trained=metadata.head_trained, embed_dim=width),
        text=TextPart(text, width, model.text, assembly.tokenizer),
        templates=TEMPLATES,
        sources=metadata.sources,
        notes=metadata.notes,
        header=encode_ovsam(replace(metadata, sources=(), notes="")),
        graphs=(
            LoweredGraph("encoder", partial(ovsam_encoder_spec, model)),
            *decoder_graphs(partial(ovsam_mask_decoder_spec, model)),
            PlainGraph("roi_classifier", partial(roi_classifier_spec, model), ROI_MAX_OPSET),
            PlainGraph("clip_roi", partial(clip_roi_spec, model), ROI_MAX_OPSET),
        ),
        samples=partial(photo_samples, model, pixels),
    )


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
    decoder = PromptedLabelDecoder(model.prompt_encoder, model.mask_decoder)
    inputs = tracing_prompts((config.image_size, config.image_size), config.neck.out_channels)
    return GraphSpec("mask_decoder", decoder, inputs, OVSAM_DECODER_OUTPUTS, DYNAMIC_AXES)


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


def _sides(image_size: int) -> list[int]:
    return [image_size // stride for stride in STRIDES]


def _regions(image_size: int, embed_dim: int) -> dict[str, torch.Tensor]:
    """Return two boxes, one on each side of the limit between two levels, and three texts."""
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.4, 0.4, 0.5, 0.5]]) * image_size
    return {"boxes": boxes, "text": torch.nn.functional.normalize(torch.rand(3, embed_dim))}


@torch.inference_mode()
def photo_samples(model: Ovsam, pixels: Preprocessing, photo: Path) -> list[Sample]:
    """Run the torch model on a photo: samples for the encoder, the decoder, both classifiers."""
    array, letterbox = preprocess(load_image(photo), pixels)
    image, name = torch.from_numpy(array), photo.name
    encoded = OvsamEncoder(model)(image)
    embeddings, *levels, c5 = encoded
    decoder = PromptedLabelDecoder(model.prompt_encoder, model.mask_decoder)
    samples = [make_sample("encoder", name, {"image": image}, OVSAM_ENCODER_OUTPUTS, encoded)]
    decoded = decoder_samples(name, decoder, OVSAM_DECODER_OUTPUTS, embeddings, letterbox)
    samples += decoded
    masks = [
        torch.from_numpy(sample.expected[OVSAM_DECODER_OUTPUTS[0]])
        for sample in decoded
        if sample.graph == "mask_decoder"
    ]
    pyramid = dict(zip(PYRAMID, levels, strict=True))
    boxes, text = example_boxes(letterbox), _example_texts(model.config.embed_dim)
    for regions, texts, drawn in ((boxes, text, masks[1]), (boxes[:1], text[:1], masks[0])):
        asked = {"boxes": regions, "text": texts}
        head, clip = {**pyramid, **asked}, {"c5": c5, **asked}
        if isinstance(model.clip_roi, ClipMaskPool):
            clip = {"c5": c5, "low_res_masks": drawn, "text": texts}
        samples += [
            make_sample("roi_classifier", name, head, ROI_OUTPUTS, (model.roi_classifier(**head),)),
            make_sample("clip_roi", name, clip, CLIP_ROI_OUTPUTS, (model.clip_roi(**clip),)),
        ]
    return samples


def example_boxes(letterbox: Letterbox) -> Tensor:
    """Return boxes of a photo, 5x4 in pixels of the input: the whole photo, and one for each level.

    Their sides lie in the middle between the sizes at which the level changes, so that rounding
    cannot change it; in a small input the large ones reach beyond its edges, as boxes may.
    """
    height, width = letterbox.input_size
    boxes = [(0.0, 0.0, float(width), float(height))]
    for level in range(len(STRIDES)):
        half = 1.5 * 2**level * FINEST_SCALE / 2
        x, y = width * (level + 1) / 5, height * (4 - level) / 5
        boxes.append((x - half, y - half, x + half, y + half))
    return torch.tensor(boxes)


def _example_texts(width: int) -> Tensor:
    """Return unit rows, `TEXTS` x width, as embeddings: the text encoder is verified by itself."""
    rows = torch.randn(TEXTS, width, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=-1)
