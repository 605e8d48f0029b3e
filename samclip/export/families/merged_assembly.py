"""From checkpoints to one merged model: a merged file, or a SAM and a CLIP still apart.

Saving a merged model as one self-describing safetensors file; `assemble` reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from samclip.errors import CheckpointError, did_you_mean
from samclip.export.checkpoints.checkpoint import (
    FOLDER_FILES,
    Checkpoint,
    StateDict,
    fit_state,
    guess_model_type,
    read_checkpoint,
    write_tensors,
)
from samclip.export.checkpoints.fetch import packaged_license
from samclip.export.checkpoints.metadata import (
    TOKENIZER_KEY,
    MergedMetadata,
    TextMetadata,
    decode_metadata,
    encode_metadata,
)
from samclip.export.checkpoints.text_source import TextSource, has_text, read_text
from samclip.export.models.bert_tower import BertTowerConfig
from samclip.export.models.merged import (
    MODEL_TYPES,
    STITCHED_TYPE,
    MergedConfig,
    MergedModel,
)
from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.export.models.pos_embed import fit_positions
from samclip.export.models.text_tower import TextTowerConfig
from samclip.export.models.tiny_vit import IGNORED_CHECKPOINT_KEYS
from samclip.runtime.bundles.manifest import Source

SAM_IMAGE_SIZE = 1024
DEFAULT_EMBED_DIM = 512  # OpenCLIP ViT-B/16's, for an untrained head with no text tower
HEAD_SEED = 0
HEAD = "clip_head."
STITCHED_ONLY_MERGED = (
    f"A {STITCHED_TYPE} model comes from merging a recogniser with a SAM, so there are merged "
    "checkpoints of it and no others."
)


@dataclass(frozen=True)
class Checkpoints:
    """The files to assemble: `main` is a merged checkpoint or a SAM.

    `clip` brings a trained CLIP head, a text tower or both; `text` a text tower alone.
    """

    main: Path
    clip: Path | None = None
    text: Path | None = None


@dataclass(frozen=True)
class Assembly:
    """A model with its weights, what is known of it, and its text tower's `tokenizer.json`."""

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
    main = read_checkpoint(files.main)
    clip = read_checkpoint(files.clip) if files.clip else None
    head = next((c for c in (clip, main) if c is not None and c.has(HEAD)), None)
    text_file, text = _text(files, clip, main, quick_gelu)
    metadata = _metadata(main, head, text, model_type)
    metadata = msgspec.structs.replace(
        metadata,
        image_size=metadata.image_size if image_size is None else image_size,
        head_pool=metadata.head_pool if head_pool is None else head_pool,
        sources=_all_sources(_sources(main, head, text_file), metadata.sources),
    )
    model = _build(metadata, text)
    _load_sam(model, main)
    _load_head(model, head)
    if model.text is not None and text is not None:
        fit_state(model.text, text.state, f"text tower ({text.model})")
    return Assembly(model.eval(), metadata, None if text is None else text.tokenizer)


def _text(
    files: Checkpoints,
    clip: Checkpoint | None,
    main: Checkpoint,
    quick_gelu: bool | None,
) -> tuple[Checkpoint | None, TextSource | None]:
    """Find the text tower: its own file first, then the CLIP's, then the merged checkpoint's."""
    if files.text is not None:
        checkpoint = read_checkpoint(files.text)
        return checkpoint, read_text(checkpoint, quick_gelu)
    for candidate in (clip, main):
        if candidate is not None and has_text(candidate):
            return candidate, read_text(candidate, quick_gelu)
    return None, None


def _metadata(
    main: Checkpoint, head: Checkpoint | None, text: TextSource | None, model_type: str | None
) -> MergedMetadata:
    """Collect what the checkpoints say of the model, checked against each other."""
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
        image_size=SAM_IMAGE_SIZE,
        embed_dim=text.config.embed_dim if text else DEFAULT_EMBED_DIM,
    )
    if text is None:
        return base
    _check_space(base, text)
    return msgspec.structs.replace(
        base,
        text=TextMetadata(
            model=text.model,
            logit_scale=text.logit_scale,
            space=text.space,
            clip=text.config if isinstance(text.config, TextTowerConfig) else None,
            bert=text.config if isinstance(text.config, BertTowerConfig) else None,
        ),
    )


def _check_space(metadata: MergedMetadata, text: TextSource) -> None:
    """Refuse a text tower whose space is not the one the head was trained in."""
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
    """Tell the encoder's type: as asked, or as its keys show."""
    guessed = guess_model_type(main.state)
    if asked is not None and asked not in MODEL_TYPES:
        known = (*MODEL_TYPES, *OVSAM_CONFIGS)
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
            f"{main.path.name} is no SAM, MobileSAM or merged checkpoint: expected keys such as "
            f"image_encoder.pos_embed or image_encoder.layers.*, found {_first_keys(main.state)}"
        )
    return guessed


def _build(metadata: MergedMetadata, text: TextSource | None) -> MergedModel:
    """Make the model; the seed makes an untrained head the same in every export."""
    torch.manual_seed(HEAD_SEED)
    return MergedModel(
        MergedConfig(
            model_type=metadata.model_type,
            image_size=metadata.image_size,
            embed_dim=metadata.embed_dim,
            head_pool=metadata.head_pool,
            pyramid=metadata.pyramid,
            text_tower=None if text is None else text.config,
        )
    )


def _load_sam(model: MergedModel, main: Checkpoint) -> None:
    """Load encoder, prompt encoder and mask decoder, resized where the image size asks for it."""
    what = f"of a {model.config.model_type} model (is {main.path.name} complete?)"
    encoder = fit_positions(main.part("image_encoder."), model.image_encoder)
    fit_state(model.image_encoder, encoder, f"image encoder {what}", IGNORED_CHECKPOINT_KEYS)
    fit_state(model.prompt_encoder, main.part("prompt_encoder."), f"prompt encoder {what}")
    fit_state(model.mask_decoder, main.part("mask_decoder."), f"mask decoder {what}")


def _load_head(model: MergedModel, head: Checkpoint | None) -> None:
    """Load the CLIP head, or start an untrained one from the encoder's last block."""
    if head is None:
        model.initialise_head()
        return
    state = fit_positions(head.part(HEAD), model.clip_head)
    fit_state(model.clip_head, state, f"CLIP head of {head.path.name}")


def _sources(
    main: Checkpoint, head: Checkpoint | None, text: Checkpoint | None
) -> tuple[Source, ...]:
    """Name every file that went in, once per role."""
    merged = head is main
    roles = [("merged" if merged else "sam", main)]
    roles += [("clip_head", head)] if head is not None and not merged else []
    roles += [("text", text)] if text is not None and text is not main else []
    return tuple(
        Source(role=role, file=weights_name(c.path), sha256=c.sha256, license=checkpoint_license(c))  # type: ignore[arg-type]
        for role, c in roles
    )


def _all_sources(files: tuple[Source, ...], origins: tuple[Source, ...]) -> tuple[Source, ...]:
    """Put behind the files what a merged checkpoint among them says that it was made of."""
    own = {(source.role, source.sha256) for source in files}
    return (*files, *(source for source in origins if (source.role, source.sha256) not in own))


def weights_name(path: Path) -> str:
    """Name a file, with its folder where every model's weights have the same name."""
    return f"{path.parent.name}/{path.name}" if path.name in FOLDER_FILES else path.name


def checkpoint_license(checkpoint: Checkpoint) -> str:
    """Tell the licence that the file states, or that is known of a packaged checkpoint."""
    packaged = packaged_license(checkpoint.sha256)
    if packaged is not None:
        return packaged
    if checkpoint.has(HEAD) and checkpoint.metadata:
        return decode_metadata(dict(checkpoint.metadata), checkpoint.path.name).license
    return "unknown"


def _first_keys(state: Mapping[str, object] | StateDict) -> str:
    return ", ".join(list(state)[:4])


def save_merged(assembly: Assembly, path: Path) -> Path:
    """Write a model, its metadata and its tokenizer to `path`; an existing file is replaced whole.

    Raises CheckpointError when the metadata does not describe the text tower inside, WriteError
    when the disk refuses.
    """
    model, metadata = assembly.model, assembly.metadata
    described = metadata.text
    if model.text is not None and (described is None or not (described.clip or described.bert)):
        raise CheckpointError(
            f"{path} was not written: its metadata lacks the sizes of the text tower inside; give "
            "text.clip or text.bert"
        )
    header = encode_metadata(metadata)
    if assembly.tokenizer is not None:
        header[TOKENIZER_KEY] = assembly.tokenizer.decode("utf-8")
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    return write_tensors(path, state, header)
