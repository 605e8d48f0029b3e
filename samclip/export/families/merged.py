"""A merged model, with one encoder, a CLIP head and SAM's decoder, as the exporter sees it.

Its graphs have the field's conventional names of inputs and outputs.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import nn

from samclip.export.checkpoints.metadata import encode_metadata
from samclip.export.exportable import Exportable
from samclip.export.families.decoder_prompts import DYNAMIC_AXES, tracing_prompts, verifying_prompts
from samclip.export.families.merged_assembly import Assembly
from samclip.export.graphs import GraphSpec, LoweredGraph, PlainGraph
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedModel
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.radio.model import Radio
from samclip.export.text_part import TextPart
from samclip.export.verification import Sample, make_sample
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing
from samclip.runtime.pixels.image import load_image, preprocess

TEMPLATES = "openai"
ENCODER_OUTPUTS = ("backbone_features", "image_embeddings")
HEAD_OUTPUTS = ("image_embed", "patch_embeds")
DECODER_OUTPUTS = ("iou_predictions", "low_res_masks")


def merged_exportable(assembly: Assembly) -> Exportable:
    """Return everything of a merged model that goes into a bundle."""
    model, metadata = assembly.model, assembly.metadata
    text = None
    if metadata.text is not None:
        tower = model.naming_tower
        text = TextPart(metadata.text, metadata.joint_dim, tower, assembly.tokenizer)
    pixels = Preprocessing(image_size=metadata.image_size, mean=metadata.mean, std=metadata.std)
    head = ClipHead(
        trained=metadata.head_trained,
        embed_dim=metadata.joint_dim,
        grid=model.clip_head.config.tokens,
    )
    return Exportable(
        model_type=metadata.model_type,
        pixels=pixels,
        head=head,
        text=text,
        templates=TEMPLATES,
        sources=metadata.sources,
        notes=metadata.notes,
        header=encode_metadata(replace(metadata, sources=(), notes="")),
        graphs=(
            LoweredGraph("encoder", partial(encoder_spec, model)),
            LoweredGraph("clip_head", partial(clip_head_spec, model)),
            PlainGraph("mask_decoder", partial(mask_decoder_spec, model)),
        ),
        samples=partial(photo_samples, model, model.image_encoder, head, pixels),
    )


def encoder_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xSxS, normalised -> the features before SAM's neck, and after it."""
    size = model.config.image_size
    encoder = fold_batch_norms(lowered(model.image_encoder, lowering))
    return GraphSpec("encoder", encoder, {"image": torch.rand(1, 3, size, size)}, ENCODER_OUTPUTS)


def clip_head_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`backbone_features` 1xCxGxG and `token_mask` 1xgxg -> 1xD and 1xDxgxg, not normalised."""
    grid, tokens = model.image_encoder.backbone_grid, model.clip_head.config.tokens
    inputs = {
        "backbone_features": torch.rand(1, model.image_encoder.backbone_channels, grid, grid),
        "token_mask": torch.ones(1, tokens, tokens),
    }
    head = fold_batch_norms(lowered(model.clip_head, lowering))
    return GraphSpec("clip_head", head, inputs, HEAD_OUTPUTS)


def mask_decoder_spec(model: MergedModel | Radio) -> GraphSpec:
    """Prompts (B prompts of N points each) on one image's embedding -> Bx4 masks and their IoU."""
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    inputs = tracing_prompts(model.prompt_encoder.image_size)
    return GraphSpec("mask_decoder", decoder, inputs, DECODER_OUTPUTS, DYNAMIC_AXES)


def lowered(module: nn.Module, lowering: Lowering) -> nn.Module:
    """Return a copy of a module, with its relative-position attention in the given form."""
    copied = copy.deepcopy(module).eval()
    set_attention_lowering(copied, lowering)
    return copied


@torch.inference_mode()
def photo_samples(
    model: MergedModel | Radio,
    encoder: nn.Module,
    described: ClipHead,
    pixels: Preprocessing,
    photo: Path,
) -> list[Sample]:
    """Run the torch model on a photo: samples for encoder, CLIP head and mask decoder."""
    array, letterbox = preprocess(load_image(photo), pixels)
    image, name = torch.from_numpy(array), photo.name
    features, embeddings = encoder(image)
    head = {
        "backbone_features": features,
        "token_mask": torch.from_numpy(letterbox.token_mask(described.grid)),
    }
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
