"""Open-Vocabulary SAM as the exporter sees it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from samclip.export.exportable import Exportable, TextPart, lowered, plain
from samclip.export.families.ovsam_assembly import OvsamAssembly
from samclip.export.models.ovsam.clip_regions import ClipMaskPool
from samclip.export.models.ovsam.decoder import PromptedLabelDecoder
from samclip.export.models.ovsam.model import Ovsam, OvsamEncoder
from samclip.export.models.ovsam.roi_classifier import FINEST_SCALE, LOGIT_SCALE, STRIDES
from samclip.export.parity import Sample, example_prompts, make_sample
from samclip.export.specs import (
    CLIP_ROI_OUTPUTS,
    OVSAM_DECODER_OUTPUTS,
    OVSAM_ENCODER_OUTPUTS,
    PYRAMID,
    ROI_OUTPUTS,
    clip_roi_spec,
    ovsam_encoder_spec,
    ovsam_mask_decoder_spec,
    roi_classifier_spec,
    roi_opset,
)
from samclip.runtime.bundles.manifest import Preprocessing, RegionHead
from samclip.runtime.pixels.image import Letterbox, load_image, preprocess

TEMPLATES = "vild"  # those that the released model makes its classifier of
TEXTS = 16  # that regions are compared with while graphs are verified


def ovsam_exportable(assembly: OvsamAssembly) -> Exportable:
    """Say what of an Open-Vocabulary SAM goes into a bundle."""
    model, metadata = assembly.model, assembly.metadata
    pixels = Preprocessing(image_size=metadata.image_size, mean=metadata.mean, std=metadata.std)
    width = model.config.embed_dim
    return Exportable(
        model_type=metadata.model_type,
        pixels=pixels,
        head=RegionHead(trained=metadata.head_trained, embed_dim=width),
        text=TextPart(metadata.text, width, LOGIT_SCALE, model.text, assembly.tokenizer),
        templates=TEMPLATES,
        sources=metadata.sources,
        notes=metadata.notes,
        graphs=(
            lowered("encoder", partial(ovsam_encoder_spec, model)),
            plain("mask_decoder", partial(ovsam_mask_decoder_spec, model)),
            plain("roi_classifier", partial(roi_classifier_spec, model), roi_opset),
            plain("clip_roi", partial(clip_roi_spec, model), roi_opset),
        ),
        samples=partial(photo_samples, model, pixels),
    )


@torch.inference_mode()
def photo_samples(model: Ovsam, pixels: Preprocessing, photo: Path) -> list[Sample]:
    """Run the torch model on a photo: samples for the encoder, the decoder, both classifiers."""
    array, letterbox = preprocess(load_image(photo), pixels)
    image, name = torch.from_numpy(array), photo.name
    encoded = OvsamEncoder(model)(image)
    embeddings, *levels, c5 = encoded
    decoder = PromptedLabelDecoder(model.prompt_encoder, model.mask_decoder)
    samples = [make_sample("encoder", name, {"image": image}, OVSAM_ENCODER_OUTPUTS, encoded)]
    masks: list[Tensor] = []
    for prompt in example_prompts(embeddings, letterbox):
        masks.append(decoder(**prompt))
        samples.append(make_sample("mask_decoder", name, prompt, OVSAM_DECODER_OUTPUTS, masks[-1:]))
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
    """Choose boxes of a photo, 5x4 in pixels of the input: all of it, and one for each level.

    Their sides lie in the middle between those at which the level changes, so that rounding does
    not choose; in a small input the large ones reach beyond its edges, as boxes may.
    """
    height, width = letterbox.input_size
    boxes = [(0.0, 0.0, float(width), float(height))]
    for level in range(len(STRIDES)):
        half = 1.5 * 2**level * FINEST_SCALE / 2
        x, y = width * (level + 1) / 5, height * (4 - level) / 5
        boxes.append((x - half, y - half, x + half, y + half))
    return torch.tensor(boxes)


def _example_texts(width: int) -> Tensor:
    """Make unit rows, `TEXTS` x width: what a text encoder gives is verified with the encoder."""
    rows = torch.randn(TEXTS, width, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=-1)
