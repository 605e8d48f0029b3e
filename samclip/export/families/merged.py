"""A merged model, of one encoder, a CLIP head and SAM's decoder, as the exporter sees it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from samclip.export.exportable import Exportable, TextPart, lowered, plain
from samclip.export.families.merged_assembly import Assembly
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedModel
from samclip.export.parity import Sample, example_prompts, make_sample
from samclip.export.specs import (
    DECODER_OUTPUTS,
    ENCODER_OUTPUTS,
    HEAD_OUTPUTS,
    clip_head_spec,
    encoder_spec,
    mask_decoder_spec,
)
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing
from samclip.runtime.pixels.image import load_image, preprocess

TEMPLATES = "openai"


def merged_exportable(assembly: Assembly) -> Exportable:
    """Say what of a merged model goes into a bundle."""
    model, metadata = assembly.model, assembly.metadata
    pixels = Preprocessing(image_size=metadata.image_size, mean=metadata.mean, std=metadata.std)
    return Exportable(
        model_type=metadata.model_type,
        pixels=pixels,
        head=ClipHead(
            trained=metadata.head_trained,
            embed_dim=metadata.embed_dim,
            grid=model.clip_head.config.tokens,
        ),
        text=_text(assembly),
        templates=TEMPLATES,
        sources=metadata.sources,
        notes=metadata.notes,
        graphs=(
            lowered("encoder", partial(encoder_spec, model)),
            lowered("clip_head", partial(clip_head_spec, model)),
            plain("mask_decoder", partial(mask_decoder_spec, model)),
        ),
        samples=partial(photo_samples, model, pixels),
    )


def _text(assembly: Assembly) -> TextPart | None:
    described = assembly.metadata.text
    if described is None:
        return None
    return TextPart(
        described,
        assembly.metadata.embed_dim,
        described.logit_scale,
        assembly.model.text,
        assembly.tokenizer,
    )


@torch.inference_mode()
def photo_samples(model: MergedModel, pixels: Preprocessing, photo: Path) -> list[Sample]:
    """Run the torch model on a photo: samples for encoder, CLIP head and mask decoder."""
    array, letterbox = preprocess(load_image(photo), pixels)
    image, name = torch.from_numpy(array), photo.name
    features, embeddings = model.image_encoder(image)
    head = {
        "backbone_features": features,
        "token_mask": torch.from_numpy(letterbox.token_mask(model.clip_head.config.tokens)),
    }
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    encoded = (features, embeddings)
    return [
        make_sample("encoder", name, {"image": image}, ENCODER_OUTPUTS, encoded),
        make_sample("clip_head", name, head, HEAD_OUTPUTS, model.clip_head(*head.values())),
        *(
            make_sample("mask_decoder", name, prompt, DECODER_OUTPUTS, decoder(**prompt))
            for prompt in example_prompts(embeddings, letterbox)
        ),
    ]
