"""C-RADIO assembled from its checkpoint, the neck and decoder of SAM ViT-H, and a text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import fit_state, read_checkpoint
from samclip.export.checkpoints.hugging_face_sam import as_segment_anything
from samclip.export.checkpoints.metadata import source_of
from samclip.export.checkpoints.radio.radio_file import (
    SPATIAL,
    SUMMARY,
    RadioFile,
    open_radio,
)
from samclip.export.checkpoints.radio.radio_teachers import Teacher
from samclip.export.checkpoints.radio.trunk_weights import (
    NORMALISER,
    load_trunk,
    read_pixels,
    read_trunk_config,
)
from samclip.export.checkpoints.text_source import TextSource, read_tower
from samclip.export.checkpoints.weights_files import open_weights
from samclip.export.checkpoints.weights_paths import find_weights
from samclip.export.models.radio.heads import Head, head_form, make_head
from samclip.export.models.radio.model import Radio, RadioEncoder
from samclip.export.models.siglip_tower import SiglipTowerConfig
from samclip.export.models.text_tower import TextTowerConfig
from samclip.runtime.bundles.manifest import Source, Triple

IMAGE_SIZE = 1024  # of SAM ViT-H, whose features the head of the teacher `sam` imitates
SAM_WIDTH = 1280  # of SAM ViT-H in front of its neck
# What is read of SAM's file; its blocks, 2.4 GB, are not.
SAM_PARTS = (
    *("image_encoder.neck.", "prompt_encoder.", "mask_decoder.", "vision_encoder.neck."),
    *("vision_encoder.pos_embed", "shared_image_embedding."),
)


@dataclass(frozen=True)
class RadioFiles:
    """The files to assemble: C-RADIO's .pth.tar, SAM ViT-H, and perhaps a text tower."""

    checkpoint: Path
    sam: Path
    text: Path | None = None


@dataclass(frozen=True)
class RadioSettings:
    """What the files leave open.

    `teacher` names the one whose text space to use, None takes the one that fits the text tower,
    else the first in the file, SigLIP before CLIP. `align_corners` is how positions are resized.
    `window_size` lets most blocks attend within windows; 0 none.
    """

    model_type: str | None = None
    image_size: int = IMAGE_SIZE
    teacher: str | None = None
    align_corners: bool = False
    window_size: int = 0
    quick_gelu: bool | None = None


@dataclass(frozen=True)
class RadioAssembly:
    """A model with its weights, what its pixels are normalised by, and where it comes from."""

    model: Radio
    model_type: str
    mean: Triple
    std: Triple
    text: TextSource | None
    sources: tuple[Source, ...]
    notes: str


def assemble_radio(files: RadioFiles, settings: RadioSettings) -> RadioAssembly:
    """Read the files and build the model.

    Raises CheckpointError for files that cannot be read or do not fit, with the names of weights
    that are missing or that nothing uses.
    """
    text_file = None if files.text is None else read_checkpoint(files.text)
    path = find_weights(files.checkpoint)
    with open_weights(path) as weights:
        file = open_radio(path, weights)
        able = _naming_teachers(file, settings.teacher)
        text = None
        if text_file is not None:
            text = read_tower(text_file, settings.quick_gelu, _usual_gelu(able))
        model_type, config = read_trunk_config(
            file, settings.model_type, settings.image_size, settings.window_size
        )
        tokens = config.grid[0] * config.grid[1]
        named, names = _naming_head(file, able, text, tokens)
        sam_head = _sam_head(file, tokens)
        normalised = bool(file.below(NORMALISER))
        with torch.no_grad():
            encoder = RadioEncoder(config, named.slot, sam_head, normalised)
            model = Radio(encoder, names, settings.image_size, text.config if text else None)
        note = load_trunk(model.encoder, file, settings.align_corners)
        mean, std = read_pixels(file)
        file.require_all_used()
        sources = [file.source()]
    sources.append(_load_sam(model, files.sam))
    if model.text is not None and text is not None and text_file is not None:
        fit_state(model.text, text.state, f"text tower ({text.model})")
        sources.append(source_of("text", text_file))
    notes = f"Names are in the space of the teacher {named.name}. {note}"
    if settings.window_size:
        notes += f" All but {len(config.global_blocks)} blocks attend in windows of "
        notes += f"{settings.window_size} x {settings.window_size} tokens."
    return RadioAssembly(model.eval(), model_type, mean, std, text, tuple(sources), notes)


def _naming_teachers(file: RadioFile, asked: str | None) -> list[Teacher]:
    """List the teachers whose summary can name, SigLIP's first; `asked` alone where it is given."""
    able = [each for each in file.teachers.all if each.has_text]
    if asked is not None:
        able = [each for each in able if each.name == asked]
        if not able:
            raise CheckpointError(
                f"{file.path.name} has no teacher {asked!r} with a text tower; it has "
                f"{file.teachers.names}"
            )
    if not able:
        raise CheckpointError(
            f"{file.path.name} has no teacher with a text tower (siglip2, clip), so it cannot "
            f"name anything; it has {file.teachers.names}"
        )
    return sorted(able, key=lambda each: not each.is_siglip)


def _usual_gelu(teachers: list[Teacher]) -> bool | None:
    """Return the activation of the CLIP among the teachers; None where they do not agree."""
    said = {each.quick_gelu for each in teachers if not each.is_siglip}
    return said.pop() if len(said) == 1 else None


def _naming_head(
    file: RadioFile, able: list[Teacher], text: TextSource | None, tokens: int
) -> tuple[Teacher, Head]:
    """Choose the teacher whose summary names things, and make its head, loaded.

    It is the first whose text space is the tower's: of its kind, and as wide. Raises
    CheckpointError when there is none.
    """
    heads = []
    for teacher in able:
        head = _read_head(file, SUMMARY, teacher, teacher.summary, tokens)
        if text is None or (_is_of(text, teacher) and head.out == text.config.embed_dim):
            return teacher, head
        kind = "SigLIP" if teacher.is_siglip else "CLIP"
        heads.append(f"{teacher.name}, {head.out}-d by the text tower of {teacher.model or kind}")
    raise CheckpointError(
        f"the text tower ({text.model if text else 'none'}) leads into the space of no teacher of "
        f"{file.path.name}, which has {'; '.join(heads)}. Give the tower of one of these, as its "
        "authors publish it (of siglip2-g: google/siglip2-giant-opt-patch16-384)."
    )


def _is_of(text: TextSource, teacher: Teacher) -> bool:
    """Whether a text tower is of a teacher's kind."""
    kind = SiglipTowerConfig if teacher.is_siglip else TextTowerConfig
    return isinstance(text.config, kind)


def _sam_head(file: RadioFile, tokens: int) -> Head:
    """Return the head whose features SAM ViT-H's neck takes."""
    teacher = next((each for each in file.teachers.all if each.is_sam), None)
    if teacher is None:
        raise CheckpointError(
            f"{file.path.name} has no teacher `sam`, whose features SAM ViT-H's neck and decoder "
            f"take, so nothing could be segmented; it has {file.teachers.names}. C-RADIO v3 has "
            "one; v4 learned from SAM 3, whose features fit SAM 3's own decoder alone."
        )
    if teacher.upsample != 1:
        raise CheckpointError(
            f"the features of the teacher {teacher.name} in {file.path.name} are "
            f"{teacher.upsample} times finer than its patches, which is not supported"
        )
    head = _read_head(file, SPATIAL, teacher, teacher.spatial, tokens)
    if head.out != SAM_WIDTH:
        raise CheckpointError(
            f"the features of the teacher {teacher.name} in {file.path.name} are {head.out} wide, "
            f"and SAM ViT-H's are {SAM_WIDTH}; its decoder cannot take them"
        )
    return head


def _read_head(
    file: RadioFile, kind: str, teacher: Teacher, version: str | None, tokens: int
) -> Head:
    """Make a teacher's head from its weights, and load it."""
    prefix, state = file.read_head(kind, teacher)
    found = head_form(state)
    if kind == SUMMARY and found == "attn":
        raise file.refusal(f"{prefix}* attends among patches, and is for one summary token")
    head = make_head(state, prefix, tokens)
    if version is not None and found != version:
        raise file.refusal(f"{prefix}* has the form {found}, and args say {version}")
    _require_names(file, head, {key: prefix + key for key in head.state_dict()}, state, prefix)
    fit_state(head, state, f"head {prefix}* of {file.path.name}")
    return head


def _require_names(
    file: RadioFile,
    module: nn.Module,
    names: Mapping[str, str],
    state: Mapping[str, Tensor],
    prefix: str,
) -> None:
    """Refuse names that a part has too many or too few of, by their names in the file."""
    missing = sorted(names[key] for key in module.state_dict() if key not in state)
    unexpected = sorted(prefix + key for key in state if key not in names)
    problems = [
        f"{label}: {', '.join(keys[:6])}"
        for label, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        raise file.refusal("; ".join(problems))


def _load_sam(model: Radio, path: Path) -> Source:
    """Load neck, prompt encoder and mask decoder of SAM ViT-H."""
    sam = as_segment_anything(read_checkpoint(path, SAM_PARTS))
    name = sam.path.name
    neck = sam.part("image_encoder.neck.")
    first = neck.get("0.weight")
    if first is not None and first.dim() == 4 and first.shape[1] != SAM_WIDTH:
        raise CheckpointError(
            f"{name} is a SAM whose neck takes {first.shape[1]} channels; C-RADIO imitates SAM "
            f"ViT-H, with {SAM_WIDTH}. Give sam_vit_h_4b8939.pth."
        )
    fit_state(model.encoder.neck, neck, f"neck of SAM ViT-H ({sam.doubt})")
    fit_state(model.prompt_encoder, sam.part("prompt_encoder."), f"prompt encoder of {name}")
    fit_state(model.mask_decoder, sam.part("mask_decoder."), f"mask decoder of {name}")
    return source_of("sam", sam)
