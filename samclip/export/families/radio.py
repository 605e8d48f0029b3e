"""C-RADIO as the exporter sees it: encoder, head for names, and SAM ViT-H's decoder.

Its graphs have the names of inputs and outputs that a merged model's have.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from samclip.export.exportable import Exportable, Shapes
from samclip.export.families.decoder_prompts import decoder_graphs
from samclip.export.families.merged import (
    ENCODER_OUTPUTS,
    HEAD_OUTPUTS,
    TEMPLATES,
    canvas_field,
    lowered,
    mask_decoder_spec,
    photo_samples,
)
from samclip.export.families.radio_assembly import RadioAssembly
from samclip.export.graphs import GraphSpec, LoweredGraph, PlainGraph
from samclip.export.models.attention import Lowering
from samclip.export.models.radio.model import Radio
from samclip.export.options import AS_TRAINED, DenseNames
from samclip.export.text_part import TextPart
from samclip.export.token_aggregation import with_token_aggregation
from samclip.runtime.bundles.manifest import ClipHead, Preprocessing


def radio_exportable(assembly: RadioAssembly, dense: DenseNames = AS_TRAINED) -> Exportable:
    """Return everything of a C-RADIO that goes into a bundle."""
    model, source = assembly.model, assembly.text
    if dense.recursive_attention:
        model.encoder.trunk.add_recursion()
    head = ClipHead(
        trained=True, embed_dim=model.clip_head.head.out, grid=max(model.clip_head.grid)
    )
    text = None
    if source is not None:
        text = TextPart(source.metadata, head.embed_dim, model.text, source.tokenizer)
    pixels = Preprocessing(
        image_size=model.image_size,
        mean=assembly.mean,
        std=assembly.std,
        canvas=canvas_field(model.canvas),
    )
    exportable = Exportable(
        model_type=assembly.model_type,
        pixels=pixels,
        head=head,
        text=text,
        templates=TEMPLATES,
        header={},
        sources=assembly.sources,
        notes=assembly.notes,
        graphs=(
            LoweredGraph("encoder", partial(radio_encoder_spec, model)),
            PlainGraph("clip_head", partial(radio_clip_head_spec, model)),
            *decoder_graphs(partial(mask_decoder_spec, model)),
        ),
        samples=partial(photo_samples, model, model.encoder, head, pixels),
        shapes=Shapes(
            step=model.step,
            default=True,
            at=lambda canvas: radio_exportable(
                replace(assembly, model=model.at_canvas(canvas)), dense
            ),
        ),
    )
    if not dense.token_aggregation:
        return exportable
    rows, columns = model.clip_head.grid
    shape = (1, model.encoder.trunk.config.width, 1, 1 + rows * columns)
    return with_token_aggregation(exportable, shape, model.clip_head.grid)


def radio_encoder_spec(model: Radio, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xhxw, normalised -> summary and patches 1xCx1x(1+L), and SAM's embeddings."""
    image = torch.rand(1, 3, *model.canvas)
    encoder = lowered(model.encoder, lowering)
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
