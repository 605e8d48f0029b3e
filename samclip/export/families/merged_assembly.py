"""Merged models assembled from checkpoints: one merged file, or a SAM and a CLIP.

`save_merged` writes such a model as one self-describing safetensors file, which `assemble` reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from samclip.errors import CheckpointError, did_you_mean
from samclip.export.checkpoints.checkpoint import (
    Checkpoint,
    fit_state,
    guess_model_type,
    read_checkpoint,
    some_keys,
    write_tensors,
)
from samclip.export.checkpoints.declared_sizes import build_declared
from samclip.export.checkpoints.hugging_face_sam import as_segment_anything
from samclip.export.checkpoints.metadata import (
    HEAD,
    TAUGHT,
    TOKENIZER_KEY,
    MergedMetadata,
    decode_metadata,
    encode_metadata,
    source_of,
)
from samclip.export.checkpoints.text_source import (
    TextSource,
    has_text,
    read_tower,
)
from samclip.export.models.merged import (
    MODEL_TYPES,
    PATCH,
    STITCHED_TYPE,
    MergedConfig,
    MergedModel,
    TextConfig,
)
from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.export.models.pos_embed import fit_positions
from samclip.export.models.radio.sizes import RADIO_SIZES
from samclip.export.models.tiny_vit import IGNORED_CHECKPOINT_KEYS
from samclip.runtime.bundles.manifest import Source

SAM_IMAGE_SIZE = 1024
DEFAULT_EMBED_DIM = 512  # OpenCLIP ViT-B/16's, for an untrained head with no text tower
HEAD_SEED = 0
STITCHED_ONLY_MERGED = (
    f"A {STITCHED_TYPE} model comes from merging a recogniser with a SAM, so there are merged "
    "checkpoints of it only."
)


@dataclass(frozen=True)
class Checkpoints:
    """The files to assemble.

    `main` is a merged checkpoint or a SAM; `clip` holds a trained CLIP head, a text tower or both;
    `text` holds the text tower to take. `main` and `text` may be read already.
    """

    main: Path | Checkpoint
    clip: Path | None = None
    text: Path | Checkpoint | None = None


@dataclass(frozen=True)
class Assembly:
    """A model with its weights, its metadata, and its text tower's `tokenizer.json`."""

    model: MergedModel
    metadata: MergedMetadata
    tokenizer: bytes | None = None


def assemble(
    files: Checkpoints,
    model_type: str | None = None,
    image_size: int | None = None,
    head_pool: int | None = None,
    quick_gelu: bool | None = None,
) -> Assembly:
    """Read the checkpoints and build the model; None takes what the checkpoint says.

    Raises CheckpointError when a file cannot be read or its weights do not fit, naming the keys
    and the likely model type.
    """
    main = as_segment_anything(_read(files.main))
    clip = read_checkpoint(files.clip) if files.clip else None
    head = next((c for c in (clip, main) if c is not None and c.has(HEAD)), None)
    text_file, text = _text(files, clip, main, quick_gelu)
    metadata = _metadata(main, head, text, model_type)
    metadata = msgspec.structs.replace(
        metadata,
        image_size=metadata.image_size if image_size is None else image_size,
        head_pool=metadata.head_pool if head_pool is None else head_pool,
        sources=_sources(main, head, text_file, metadata.sources),
    )
    model = _build(metadata, text, main, head)
    _load_sam(model, main)
    _load_head(model, head)
    if model.text is not None and text is not None:
        fit_state(model.text, text.state, f"text tower ({text.model})")
    return Assembly(model.eval(), metadata, None if text is None else text.tokenizer)


def _read(given: Path | Checkpoint) -> Checkpoint:
    return given if isinstance(given, Checkpoint) else read_checkpoint(given)


def _text(
    files: Checkpoints,
    clip: Checkpoint | None,
    main: Checkpoint,
    quick_gelu: bool | None,
) -> tuple[Checkpoint | None, TextSource | None]:
    """Find the text tower: its own file first, then the CLIP's, then the merged checkpoint's."""
    given = None if files.text is None else _read(files.text)
    others = [other for other in (clip, main) if other is not None and has_text(other)]
    chosen = given or next(iter(others), None)
    if chosen is None:
        return None, None
    return chosen, read_tower(chosen, quick_gelu)


def _metadata(
    main: Checkpoint, head: Checkpoint | None, text: TextSource | None, model_type: str | None
) -> MergedMetadata:
    """Describe the model as the checkpoints do, and check them against each other."""
    encoder = _model_type(main, model_type)
    described = None if head is None else decode_metadata(dict(head.metadata), head.path.name)
    if described is not None and described.model_type != encoder:
        raise CheckpointError(
            f"the CLIP head of {head.path.name if head else ''} was trained on a "
            f"{described.model_type} encoder, and {main.path.name} holds a {encoder}; "
            "give a head that belongs to this encoder"
        )
    if described is None and encoder == STITCHED_TYPE:
        raise CheckpointError(f"{main.path.name} holds no {HEAD}* weights. {STITCHED_ONLY_MERGED}")
    base = described or MergedMetadata(
        model_type=encoder,
        image_size=native_image_size(main),
        embed_dim=text.config.embed_dim if text else DEFAULT_EMBED_DIM,
    )
    if text is None:
        return base
    _check_space(base, text)
    return msgspec.structs.replace(base, text=text.metadata)


def native_image_size(sam: Checkpoint) -> int:
    """Return the side in pixels that a SAM was trained at, which a ViT's positions show."""
    positions = sam.state.get("image_encoder.pos_embed")
    if positions is None or positions.dim() != 4 or positions.shape[1] != positions.shape[2]:
        return SAM_IMAGE_SIZE  # TinyViT has no positions, and was trained at this size
    return int(positions.shape[1]) * PATCH


def _check_space(metadata: MergedMetadata, text: TextSource) -> None:
    """Refuse a text tower whose space is not the one that the head was trained in."""
    trained_in = metadata.text.space if metadata.text else ""
    if metadata.embed_dim != text.config.embed_dim:
        raise CheckpointError(
            f"the CLIP head gives {metadata.embed_dim}-d embeddings and the text tower "
            f"{text.config.embed_dim}-d ones; give the tower that the head was trained with"
        )
    if metadata.head_trained and trained_in not in ("", text.space):
        raise CheckpointError(
            "the CLIP head was trained in another text tower's space "
            f"({trained_in[:12]}..., this one is {text.space[:12]}...); names would be random. "
            "Give the tower that the head was trained with."
        )


def _model_type(main: Checkpoint, asked: str | None) -> str:
    """Return the encoder's type, which its keys show, checked against the type asked for."""
    guessed = guess_model_type(main.state)
    if asked is not None and asked not in MODEL_TYPES:
        known = (*MODEL_TYPES, *OVSAM_CONFIGS, *RADIO_SIZES)
        raise CheckpointError(
            f"unknown model type {asked!r}{did_you_mean(asked, known)}; there are "
            + ", ".join(known)
            + (f". {main.path.name} looks like --model-type {guessed}" if guessed else "")
        )
    if asked is not None and guessed is not None and asked != guessed:
        raise CheckpointError(
            f"{main.path.name} does not fit --model-type {asked}: its image encoder looks like "
            f"--model-type {guessed}. Leave the option out, or give {guessed}."
            + (f" {STITCHED_ONLY_MERGED}" if asked == STITCHED_TYPE else "")
        )
    if guessed is None:
        raise CheckpointError(
            f"{main.path.name} is not a SAM, MobileSAM or merged checkpoint: expected keys such as "
            f"image_encoder.pos_embed or image_encoder.layers.*, found {some_keys(main.state)}"
        )
    return guessed


def _build(
    metadata: MergedMetadata, text: TextSource | None, main: Checkpoint, head: Checkpoint | None
) -> MergedModel:
    """Build the model; the seed makes an untrained head the same in every export."""
    config = merged_config(metadata, None if text is None else text.config)
    parts = [main.state, {} if head is None else head.state, {} if text is None else text.state]
    held = {f"{n}.{key}": value for n, part in enumerate(parts) for key, value in part.items()}
    torch.manual_seed(HEAD_SEED)
    return build_declared(lambda: MergedModel(config), held, (), (head or main).path.name)


def merged_config(metadata: MergedMetadata, text_tower: TextConfig | None) -> MergedConfig:
    """Return the architecture that metadata describes, with the given text tower."""
    return MergedConfig(
        model_type=metadata.model_type,
        image_size=metadata.image_size,
        embed_dim=metadata.embed_dim,
        head_pool=metadata.head_pool,
        pyramid=metadata.pyramid,
        text_tower=text_tower,
        taught=metadata.taught_config,
    )


def _load_sam(model: MergedModel, main: Checkpoint) -> None:
    """Load encoder, prompt encoder and mask decoder; positions are resized to the image size."""
    what = f"of a {model.config.model_type} model ({main.doubt})"
    encoder = fit_positions(main.part("image_encoder."), model.image_encoder)
    fit_state(model.image_encoder, encoder, f"image encoder {what}", IGNORED_CHECKPOINT_KEYS)
    fit_state(model.prompt_encoder, main.part("prompt_encoder."), f"prompt encoder {what}")
    fit_state(model.mask_decoder, main.part("mask_decoder."), f"mask decoder {what}")


def _load_head(model: MergedModel, head: Checkpoint | None) -> None:
    """Load the CLIP head, or initialise an untrained one from the encoder's last block."""
    if head is None:
        model.initialise_head()
        return
    state = fit_positions(head.part(HEAD), model.clip_head)
    fit_state(model.clip_head, state, f"CLIP head of {head.path.name}")
    if model.taught is not None:
        fit_state(model.taught, head.part(TAUGHT), f"taught names of {head.path.name}")


def _sources(
    main: Checkpoint, head: Checkpoint | None, text: Checkpoint | None, origins: Iterable[Source]
) -> tuple[Source, ...]:
    """List every file that went in, once per role, then the `origins` that a merged file states."""
    files = [source_of("merged" if head is main else "sam", main)]
    if head is not None and head is not main:
        files.append(source_of("clip_head", head))
    if text is not None and text is not main:
        files.append(source_of("text", text))
    known = {(source.role, source.sha256) for source in files}
    return (*files, *(source for source in origins if (source.role, source.sha256) not in known))


def save_merged(assembly: Assembly, path: Path) -> Path:
    """Write a model, its metadata and its tokenizer to `path`; an existing file is replaced whole.

    Raises CheckpointError when the metadata does not describe the text tower inside, WriteError
    when the disk refuses.
    """
    model, metadata = assembly.model, assembly.metadata
    described = metadata.text
    if model.text is not None and (described is None or described.tower is None):
        raise CheckpointError(
            f"{path} was not written: its metadata lacks the sizes of the text tower inside; give "
            "text.clip, text.bert or text.siglip"
        )
    header = encode_metadata(metadata)
    if assembly.tokenizer is not None:
        header[TOKENIZER_KEY] = assembly.tokenizer.decode("utf-8")
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    return write_tensors(path, state, header)
