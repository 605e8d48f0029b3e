"""A merged model, with one encoder, a CLIP head and SAM's decoder, as the exporter sees it.

Its graphs have the field's conventional names of inputs and outputs.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from pathlib import Path

import torch
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from torch import nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.metadata import encode_metadata
from samclip.export.exportable import Exportable, Shapes
from samclip.export.families.decoder_prompts import (
    DYNAMIC_AXES,
    decoder_graphs,
    decoder_samples,
    tracing_prompts,
)
from samclip.export.families.merged_assembly import Assembly
from samclip.export.graphs import GraphSpec, LoweredGraph
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedModel
from samclip.export.models.norms import fold_batch_norms
from samclip.export.models.radio.model import Radio
from samclip.export.models.sam_vit import SamVit
from samclip.export.options import AS_TRAINED, DenseNames
from samclip.export.text_part import TextPart
from samclip.export.token_aggregation import with_token_aggregation
from samclip.export.verification import Sample, make_sample
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing
from samclip.runtime.graph_outputs import NAME_FEATURES
from samclip.runtime.pixels.image import load_image, preprocess_for

TEMPLATES = "simple"  # 7; docs/evidence/accuracy.md has what 80 gain, at 11 times the text runs
ENCODER_OUTPUTS = ("backbone_features", "image_embeddings")
HEAD_OUTPUTS = ("image_embed", "patch_embeds")
DECODER_OUTPUTS = ("iou_predictions", "low_res_masks")


def merged_exportable(assembly: Assembly, dense: DenseNames = AS_TRAINED) -> Exportable:
    """Return everything of a merged model that goes into a bundle.

    Raises CheckpointError for steps of dense names where the encoder is not a ViT.
    """
    model, metadata = assembly.model, assembly.metadata
    encoder = model.image_encoder
    if dense:
        if not isinstance(encoder, SamVit):
            raise CheckpointError(
                f"the encoder is a {metadata.model_type}, and --recursive-attention and "
                "--token-aggregation are for ViTs: C-RADIO, vit_b, vit_l, vit_h. Leave them out."
            )
        if dense.recursive_attention:
            encoder.add_recursion()
    text = None
    if metadata.text is not None:
        tower = model.naming_tower
        text = TextPart(metadata.text, metadata.joint_dim, tower, assembly.tokenizer)
    pixels = Preprocessing(
        image_size=metadata.image_size,
        mean=metadata.mean,
        std=metadata.std,
        canvas=canvas_field(model.canvas),
    )
    head = ClipHead(
        trained=metadata.head_trained,
        embed_dim=metadata.joint_dim,
        grid=model.clip_head.config.tokens,
        confidence=metadata.confidence,
        image_confidence=metadata.image_confidence,
    )
    exportable = Exportable(
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
            *decoder_graphs(partial(mask_decoder_spec, model)),
        ),
        samples=partial(photo_samples, model, encoder, head, pixels),
        shapes=Shapes(
            step=model.step,
            default=not isinstance(encoder, SamVit),
            at=lambda canvas: merged_exportable(
                dataclasses.replace(assembly, model=model.at_canvas(canvas)), dense
            ),
        ),
    )
    if not dense.token_aggregation:
        return exportable
    rows, columns = (side * encoder.backbone_grid // metadata.image_size for side in model.canvas)
    shape = (1, encoder.backbone_channels, rows, columns)
    return with_token_aggregation(exportable, shape, (rows, columns))


def canvas_field(canvas: tuple[int, int]) -> tuple[int, int] | UnsetType:
    """Return a canvas (h, w) as `Preprocessing` has it: nothing for a square."""
    return canvas if len({*canvas}) > 1 else UNSET


def encoder_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xhxw, normalised -> the features before SAM's neck, and after it."""
    encoder = fold_batch_norms(lowered(model.image_encoder, lowering))
    image = {"image": torch.rand(1, 3, *model.canvas)}
    return GraphSpec("encoder", encoder, image, encoder_outputs(model.image_encoder))


def encoder_outputs(encoder: nn.Module) -> tuple[str, ...]:
    """Return the names of an encoder's outputs; a SAM ViT may have separate ones for names."""
    has_names = isinstance(encoder, SamVit) and encoder.recursion is not None
    return (*ENCODER_OUTPUTS, NAME_FEATURES) if has_names else ENCODER_OUTPUTS


def clip_head_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`backbone_features` 1xCxGxG and `token_mask` 1xgxg -> 1xD and 1xDxgxg, not normalised."""
    size = model.config.image_size
    maps, tokens = (
        [length * side // size for length in model.canvas]
        for side in (model.image_encoder.backbone_grid, model.clip_head.config.tokens)
    )
    inputs = {
        "backbone_features": torch.rand(1, model.image_encoder.backbone_channels, *maps),
        "token_mask": torch.ones(1, *tokens),
    }
    head = fold_batch_norms(lowered(model.clip_head, lowering))
    return GraphSpec("clip_head", head, inputs, HEAD_OUTPUTS)


def mask_decoder_spec(model: MergedModel | Radio) -> GraphSpec:
    """Prompts (B prompts of N points each) on one image's embedding -> Bx4 masks and their IoU."""
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder, model.padding)
    inputs = tracing_prompts(model.canvas)
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
    array, letterbox = preprocess_for(load_image(photo), pixels, pixels.first_canvas)
    image, name = torch.from_numpy(array), photo.name
    encoded = encoder(image)
    features, embeddings = encoded[:2]
    head = {
        "backbone_features": features,
        "token_mask": torch.from_numpy(letterbox.token_mask(described.grid)),
    }
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder, model.padding)
    return [
        make_sample("encoder", name, {"image": image}, encoder_outputs(encoder), encoded),
        make_sample("clip_head", name, head, HEAD_OUTPUTS, model.clip_head(*head.values())),
        *decoder_samples(name, decoder, DECODER_OUTPUTS, embeddings, letterbox),
    ]
