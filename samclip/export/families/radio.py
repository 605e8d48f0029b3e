"""C-RADIO as the exporter sees it: encoder, head for names, and SAM ViT-H's decoder.

Its graphs have the names of inputs and outputs that a merged model's have.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from samclip.export.exportable import Exportable
from samclip.export.families.decoder_prompts import DYNAMIC_AXES, tracing_prompts, verifying_prompts
from samclip.export.families.merged import (
    DECODER_OUTPUTS,
    ENCODER_OUTPUTS,
    HEAD_OUTPUTS,
    TEMPLATES,
)
from samclip.export.families.radio_assembly import RadioAssembly
from samclip.export.graphs import GraphSpec, LoweredGraph, PlainGraph
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.radio.model import Radio
from samclip.export.text_part import TextPart
from samclip.export.verification import Sample, make_sample
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing
from samclip.runtime.pixels.image import load_image, preprocess


def radio_exportable(assembly: RadioAssembly) -> Exportable:
    """Return everything of a C-RADIO that goes into a bundle."""
    model, source = assembly.model, assembly.text
    width = model.clip_head.head.out
    text = None
    if source is not None:
        text = TextPart(source.metadata, width, model.text, source.tokenizer)
    pixels = Preprocessing(image_size=model.image_size, mean=assembly.mean, std=assembly.std)
    return Exportable(
        model_type=assembly.model_type,
        pixels=pixels,
        head=ClipHead(trained=True, embed_dim=width, grid=model.clip_head.grid[0]),
        text=text,
        templates=TEMPLATES,
        header={},
        sources=assembly.sources,
        notes=assembly.notes,
        graphs=(
            LoweredGraph("encoder", partial(radio_encoder_spec, model)),
            PlainGraph("clip_head", partial(radio_clip_head_spec, model)),
            PlainGraph("mask_decoder", partial(radio_mask_decoder_spec, model)),
        ),
        samples=partial(photo_samples, model, pixels),
    )


def radio_encoder_spec(model: Radio, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xSxS, normalised -> summary and patches 1xCx1x(1+L), and SAM's embeddings."""
    encoder: nn.Module = copy.deepcopy(model.encoder).eval()  # so that the lowering is its own
    set_attention_lowering(encoder, lowering)
    image = torch.rand(1, 3, model.image_size, model.image_size)
    return GraphSpec("encoder", encoder, {"image": image}, ENCODER_OUTPUTS)


def radio_clip_head_spec(model: Radio) -> GraphSpec:
    """`backbone_features` 1xCx1x(1+L) and `token_mask` 1xgxg -> 1xD and 1xDxgxg, not normalised."""
    rows, columns = model.clip_head.grid
    width = model.encoder.trunk.config.width
    inputs = {
        "backbone_features": torch.rand(1, width, 1, 1 + rows * columns),
        "token_mask": torch.ones(1, rows, columns),
    }
    return GraphSpec("clip_head", model.clip_head, inputs, HEAD_OUTPUTS)


def radio_mask_decoder_spec(model: Radio) -> GraphSpec:
    """Prompts (B prompts of N points each) on one image's embedding -> Bx4 masks and their IoU."""
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    inputs = tracing_prompts(model.image_size)
    return GraphSpec("mask_decoder", decoder, inputs, DECODER_OUTPUTS, DYNAMIC_AXES)


@torch.inference_mode()
def photo_samples(model: Radio, pixels: Preprocessing, photo: Path) -> list[Sample]:
    """Run the torch model on a photo: samples for encoder, head and mask decoder."""
    array, letterbox = preprocess(load_image(photo), pixels)
    image, name = torch.from_numpy(array), photo.name
    features, embeddings = model.encoder(image)
    mask = torch.from_numpy(letterbox.token_mask(model.clip_head.grid[0]))
    head = {"backbone_features": features, "token_mask": mask}
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    encoded = (features, embeddings)
    return [
        make_sample("encoder", name, {"image": image}, ENCODER_OUTPUTS, encoded),
        make_sample("clip_head", name, head, HEAD_OUTPUTS, model.clip_head(*head.values())),
        *(
            make_sample("mask_decoder", name, prompt, DECODER_OUTPUTS, decoder(**prompt))
            for prompt in verifying_prompts(embeddings, letterbox)
        ),
    ]
