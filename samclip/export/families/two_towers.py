"""SAM and CLIP side by side in one bundle, as the exporter sees them: nothing is merged or trained.

SAM's encoder and mask decoder are those of a merged model without its CLIP head. CLIP's image tower
is a separate graph, at CLIP's size, and the text tower is CLIP's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint, read_header
from samclip.export.checkpoints.metadata import HEAD, METADATA_KEY, source_of
from samclip.export.checkpoints.vision_checkpoint import VisionTower, has_vision, read_vision
from samclip.export.exportable import Exportable
from samclip.export.families.decoder_prompts import decoder_graphs, decoder_samples
from samclip.export.families.merged import (
    DECODER_OUTPUTS,
    TEMPLATES,
    lowered,
    mask_decoder_spec,
)
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble
from samclip.export.graphs import GraphSpec, LoweredGraph, PlainGraph
from samclip.export.models.attention import Lowering
from samclip.export.models.mask_decoder import PromptedMaskDecoder
from samclip.export.models.merged import MergedModel
from samclip.export.models.norms import fold_batch_norms
from samclip.export.options import ExportOptions, TwoTowers
from samclip.export.text_part import TextPart
from samclip.export.verification import Sample, make_sample
from samclip.runtime.bundles.manifest import ClipTower, Preprocessing, Source
from samclip.runtime.pixels.clip_input import squashed_input, whole_input
from samclip.runtime.pixels.image import load_image, preprocess

CLIP_ENCODER = "clip_encoder"
ENCODER_OUTPUTS = ("image_embeddings",)
CLIP_OUTPUTS = ("image_embed", "patch_embeds")


class SamEncoder(nn.Module):
    """SAM's image encoder without the features before its neck, which only a CLIP head reads."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        """Encode `image`, 1x3xSxS normalised: 1x256xGxG."""
        embeddings: Tensor = self.encoder(image)[1]
        return embeddings


def read_two_towers(options: ExportOptions, naming: TwoTowers) -> Exportable:
    """Read a SAM and a CLIP, and describe the bundle of both.

    Raises CheckpointError for files that hold something else, or that do not fit together.
    """
    if options.clip_checkpoint is None:
        raise CheckpointError(
            "two towers are a SAM and a CLIP: give CLIP's checkpoint too, --clip-checkpoint"
        )
    if options.head_pool is not None:
        raise CheckpointError("--head-pool is for CLIP heads, and two towers have none")
    if METADATA_KEY in read_header(options.checkpoint):
        raise CheckpointError(
            f"{options.checkpoint.name} is a merged checkpoint, whose CLIP head names things in "
            "one pass. Leave --two-towers out, or give the SAM that it was made from."
        )
    clip = read_checkpoint(options.clip_checkpoint)
    if clip.has(HEAD) or not has_vision(clip):
        raise CheckpointError(
            f"{clip.path.name} holds no image tower of a CLIP, which --two-towers needs. Give "
            "OpenCLIP's or Hugging Face's whole checkpoint, not a text tower or a CLIP head alone."
        )
    assembly = assemble(
        Checkpoints(options.checkpoint, text=options.text_checkpoint or clip),
        options.model_type,
        options.image_size,
        None,
        options.quick_gelu,
    )
    tower = read_vision(clip, options.quick_gelu)
    if tower.embed_dim != assembly.metadata.embed_dim:
        text = options.text_checkpoint or options.clip_checkpoint
        raise CheckpointError(
            f"the image tower of {clip.path.name} gives {tower.embed_dim}-d embeddings and the "
            f"text tower of {text.name} {assembly.metadata.embed_dim}-d ones; give both of one CLIP"
        )
    sources = (*assembly.metadata.sources, source_of("recogniser", clip))
    return two_towers_exportable(assembly, tower, naming, sources)


def two_towers_exportable(
    assembly: Assembly, tower: VisionTower, naming: TwoTowers, sources: tuple[Source, ...]
) -> Exportable:
    """Return everything of both models that goes into a bundle."""
    model, metadata = assembly.model, assembly.metadata
    if metadata.text is None:
        raise CheckpointError("two towers need a text tower; give CLIP's whole checkpoint")
    pixels = Preprocessing(image_size=metadata.image_size, mean=metadata.mean, std=metadata.std)
    head = describe_tower(tower, naming)
    return Exportable(
        model_type=metadata.model_type,  # SAM's, by which backends are chosen
        pixels=pixels,
        head=head,
        text=TextPart(metadata.text, tower.embed_dim, model.text, assembly.tokenizer),
        templates=TEMPLATES,
        header={},
        sources=sources,
        notes=f"Two towers, not merged. Second: {tower.model}.",
        graphs=(
            LoweredGraph("encoder", partial(sam_encoder_spec, model)),
            *decoder_graphs(partial(mask_decoder_spec, model)),
            PlainGraph(CLIP_ENCODER, partial(clip_encoder_spec, tower)),
        ),
        samples=partial(photo_samples, model, pixels, tower, head),
    )


def describe_tower(tower: VisionTower, naming: TwoTowers) -> ClipTower:
    """Describe an image tower for the manifest."""
    settings = tower.settings
    (r, g, b), (dr, dg, db) = settings.mean, settings.std
    return ClipTower(
        image_size=tower.image_size,
        mean=(255 * r, 255 * g, 255 * b),
        std=(255 * dr, 255 * dg, 255 * db),
        resize=settings.resize,
        interpolation=settings.interpolation,
        embed_dim=tower.embed_dim,
        grid=tower.grid,
        name_by=naming.name_by,
        crop_margin=naming.crop_margin,
        crop_background=naming.crop_background,
    )


def sam_encoder_spec(model: MergedModel, lowering: Lowering) -> GraphSpec:
    """`image` 1x3xSxS, normalised -> SAM's embedding, after the neck."""
    size = model.config.image_size
    encoder = fold_batch_norms(SamEncoder(lowered(model.image_encoder, lowering)))
    return GraphSpec("encoder", encoder, {"image": torch.rand(1, 3, size, size)}, ENCODER_OUTPUTS)


def clip_encoder_spec(tower: VisionTower) -> GraphSpec:
    """`images` Nx3xSxS, normalised -> NxD of the images and NxDxgxg of their tokens."""
    inputs = {"images": torch.rand(2, 3, tower.image_size, tower.image_size)}
    module = fold_batch_norms(tower.module)
    return GraphSpec(CLIP_ENCODER, module, inputs, CLIP_OUTPUTS, {"images": {0: "crops"}})


@torch.inference_mode()
def photo_samples(
    model: MergedModel, pixels: Preprocessing, tower: VisionTower, head: ClipTower, photo: Path
) -> list[Sample]:
    """Run both torch models on a photo: samples for all graphs but the text tower's."""
    picture, name = load_image(photo), photo.name
    array, letterbox = preprocess(picture, pixels)
    image = torch.from_numpy(array)
    embeddings = SamEncoder(model.image_encoder)(image)
    decoder = PromptedMaskDecoder(model.prompt_encoder, model.mask_decoder)
    both = [torch.from_numpy(make(picture, head)) for make in (whole_input, squashed_input)]
    batches = [torch.stack(both[:1]), torch.stack(both)]  # one image, and two
    return [
        make_sample("encoder", name, {"image": image}, ENCODER_OUTPUTS, (embeddings,)),
        *decoder_samples(name, decoder, DECODER_OUTPUTS, embeddings, letterbox),
        *(
            make_sample(CLIP_ENCODER, name, {"images": batch}, CLIP_OUTPUTS, tower.module(batch))
            for batch in batches
        ),
    ]
