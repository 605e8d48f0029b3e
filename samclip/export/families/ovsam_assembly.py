"""Open-Vocabulary SAM assembled from the files it is published in, or from our one file.

Published: CLIP's checkpoint, SAM's, `sam2clip_*.pth` and `clip2sam_*.pth`
(`samclip.export.models.ovsam.keys`). Ours: what `samclip-merge` writes, one safetensors file whose
header describes the model, read back by `read_ovsam`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    fit_state,
    read_checkpoint,
    read_header,
    weights_name,
    write_tensors,
)
from samclip.export.checkpoints.declared_sizes import (
    MAX_SIZE,
    MIN_SIZE,
    build_declared,
    check_numbers,
)
from samclip.export.checkpoints.hugging_face_sam import as_segment_anything
from samclip.export.checkpoints.metadata import TOKENIZER_KEY, TextMetadata, source_of
from samclip.export.checkpoints.text_source import (
    TextSource,
    read_text,
    require_clip_tokens,
    require_declared_tower,
)
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.convnext import ConvNext, ConvNextConfig
from samclip.export.models.ovsam.keys import (
    clip2sam_state,
    clip_convnext_state,
    clip_resnet_state,
    prompt_encoder_state,
    sam2clip_state,
)
from samclip.export.models.ovsam.model import PIXEL_MEAN, PIXEL_STD, Ovsam, OvsamConfig
from samclip.export.models.ovsam.sam2clip import NeckConfig
from samclip.export.models.pos_embed import fit_positions, resize_absolute
from samclip.export.models.text_tower import TextTowerConfig
from samclip.runtime.bundles.manifest import Positive, Record, Source, Triple

METADATA_KEY = "samclip.ovsam"
SEED = 0  # for the parts that no file brings
SAM_POSITIONS = "image_encoder.pos_embed"


class OvsamMetadata(Record, frozen=True, kw_only=True):
    """Everything needed to rebuild the model around the tensors.

    The backbone is a CLIP ResNet, `backbone`, or a `convnext`; `head_trained` refers to the
    classifier of regions.
    """

    format: int = 1
    name: str = "ovsam"
    model_type: str
    image_size: Positive
    backbone: ResNetConfig | None = None
    convnext: ConvNextConfig | None = None
    neck: NeckConfig
    fpn_channels: Positive
    head_trained: bool = False
    text: TextMetadata
    mean: Triple = PIXEL_MEAN
    std: Triple = PIXEL_STD
    license: str = "unknown"
    sources: tuple[Source, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class OvsamFiles:
    """The files to assemble; None leaves a part untrained.

    `sam` brings the prompt encoder, and initial values of mask decoder and positions; `clip` the
    backbone, its pooling and, unless there is a file `text`, the text tower. `sam2clip` and
    `clip2sam` are the published results of the two stages of training.
    """

    sam: Path
    clip: Path | None = None
    text: Path | None = None
    sam2clip: Path | None = None
    clip2sam: Path | None = None


@dataclass(frozen=True)
class OvsamAssembly:
    """A model with its weights and its text tower, its metadata, and its `tokenizer.json`."""

    model: Ovsam
    metadata: OvsamMetadata
    tokenizer: bytes


def assemble_ovsam(
    files: OvsamFiles, model_type: str, config: OvsamConfig, quick_gelu: bool | None = None
) -> OvsamAssembly:
    """Build a model of the sizes `config`; the text tower's own sizes replace those in it.

    A backbone that no file brings is random; its convolutions keep the variance of their input (He
    et al., 2015, equation 10). A text tower that comes with the backbone has the activation of
    `quick_gelu`, or of the files next to it, or else of `config`: weights do not show it, and
    open_clip's names are the same for OpenAI's models and others. Raises CheckpointError for
    files that do not fit.
    """
    text_file = _text_file(files)
    tower = config.text_tower
    usual = None
    if files.text is None and isinstance(tower, TextTowerConfig):
        usual = tower.quick_gelu
    text = read_text(text_file, quick_gelu, usual)
    require_clip_tokens(text, text_file.path.name)
    backbone = config.backbone
    if backbone.embed_dim != text.config.embed_dim:
        raise CheckpointError(
            f"the backbone of {model_type} gives {backbone.embed_dim}-d embeddings and the text "
            f"tower of {text_file.path.name} {text.config.embed_dim}-d ones; give the tower of the "
            "CLIP that the backbone comes from"
        )
    config = replace(config, text_tower=text.config)
    torch.manual_seed(SEED)
    model = Ovsam(config, with_text=True)
    sources = _load(model, files, text)
    metadata = OvsamMetadata(
        model_type=model_type,
        image_size=config.image_size,
        backbone=backbone if isinstance(backbone, ResNetConfig) else None,
        convnext=backbone if isinstance(backbone, ConvNextConfig) else None,
        neck=config.neck,
        fpn_channels=config.fpn_channels,
        head_trained=files.clip2sam is not None,
        text=text.metadata,
        sources=(*sources, *(() if files.text is None else (source_of("text", text_file),))),
    )
    return OvsamAssembly(model.eval(), metadata, text.tokenizer)


def save_ovsam(assembly: OvsamAssembly, path: Path) -> Path:
    """Write a model, its metadata and its tokenizer to `path`; an existing file is replaced whole.

    Raises WriteError when the disk refuses.
    """
    header = {
        **encode_ovsam(assembly.metadata),
        TOKENIZER_KEY: assembly.tokenizer.decode("utf-8"),
    }
    state = {key: t.detach().cpu().contiguous() for key, t in assembly.model.state_dict().items()}
    return write_tensors(path, state, header)


def encode_ovsam(metadata: OvsamMetadata) -> dict[str, str]:
    """Return the header entry that `read_ovsam` reads."""
    return {METADATA_KEY: msgspec.json.encode(metadata).decode()}


def is_ovsam(file: Path | Checkpoint) -> bool:
    """Whether `save_ovsam` wrote a checkpoint; only the header of a file is read."""
    header = file.metadata if isinstance(file, Checkpoint) else read_header(file)
    return METADATA_KEY in header


def read_ovsam(file: Path | Checkpoint, image_size: int | None = None) -> OvsamAssembly:
    """Read what `save_ovsam` wrote; it becomes the first of the model's sources.

    `image_size`: the side in pixels that its positions are resized to; None for its own. Raises
    CheckpointError for any other file.
    """
    checkpoint = file if isinstance(file, Checkpoint) else read_checkpoint(file)
    name = checkpoint.path.name
    if METADATA_KEY not in checkpoint.metadata:
        raise CheckpointError(
            f"{name} has no {METADATA_KEY!r} metadata; expected a file written by samclip-merge"
        )
    try:
        metadata = msgspec.json.decode(checkpoint.metadata[METADATA_KEY], type=OvsamMetadata)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {name} cannot be read: {error}") from error
    check_numbers(name, metadata.mean, metadata.std, metadata.text.logit_scale)
    tokenizer = checkpoint.metadata.get(TOKENIZER_KEY)
    tower = metadata.text.tower
    backbone = metadata.backbone or metadata.convnext
    if tokenizer is None or tower is None or backbone is None:
        raise CheckpointError(
            f"{name} lacks its tokenizer, or the sizes of its backbone or its text tower"
        )
    require_declared_tower(tower, checkpoint.part("text."), name)
    size = metadata.image_size if image_size is None else image_size
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise CheckpointError(
            f"{name} is for images of {size} pixels a side; {MIN_SIZE} to {MAX_SIZE} work"
        )
    config = OvsamConfig(backbone, tower, metadata.neck, size, metadata.fpn_channels)
    layers = (*backbone.depths, metadata.neck.depth)
    model = build_declared(lambda: Ovsam(config, with_text=True), checkpoint.state, layers, name)
    state = fit_positions(checkpoint.state, model)
    fit_state(model, state, f"{metadata.model_type} of {name}")
    own = Source(
        role="merged",
        file=checkpoint.label or weights_name(checkpoint.path),
        sha256=checkpoint.sha256,
        license=metadata.license,
    )
    metadata = msgspec.structs.replace(metadata, image_size=size, sources=(own, *metadata.sources))
    return OvsamAssembly(model.eval(), metadata, tokenizer.encode())


def _load(model: Ovsam, files: OvsamFiles, text: TextSource) -> tuple[Source, ...]:
    """Fill a random model from its files; later ones replace what earlier ones brought."""
    sam = as_segment_anything(read_checkpoint(files.sam))
    sources = [source_of("sam", sam)]
    prompts = _parts(prompt_encoder_state(sam.state))["prompt_encoder"]
    fit_state(model.prompt_encoder, prompts, f"prompt encoder of {sam.path.name}")
    _load_decoder(model, sam)
    _load_positions(model, sam)
    if model.text is not None:
        fit_state(model.text, text.state, f"text tower ({text.model})")
    if files.clip is None:
        _initialise_backbone(model.backbone)
    is_convnext = isinstance(model.backbone, ConvNext)
    read_clip = clip_convnext_state if is_convnext else clip_resnet_state
    for file, read in (
        (files.clip, read_clip),
        (files.sam2clip, sam2clip_state),
        (files.clip2sam, clip2sam_state),
    ):
        if file is None:
            continue
        checkpoint = read_checkpoint(file)
        for part, state in _parts(read(checkpoint.state)).items():
            module = model.get_submodule(part)
            what = f"{part} of {checkpoint.path.name}"
            fit_state(module, fit_positions(state, module), what)
        sources.append(source_of("recogniser" if read is read_clip else "merged", checkpoint))
    return tuple(sources)


def _load_decoder(model: Ovsam, sam: Checkpoint) -> None:
    """Load SAM's decoder without its further masks and its predicted IoU, as the released code."""
    decoder = model.mask_decoder
    published = sam.part("mask_decoder.")
    own = decoder.state_dict()
    state = {key: published[key] for key in own.keys() & published.keys()}
    if "mask_tokens.weight" in state:
        state["mask_tokens.weight"] = state["mask_tokens.weight"][:1]
    labels = {key: value for key, value in own.items() if key.startswith("label_")}
    fit_state(decoder, state | labels, f"mask decoder of {sam.path.name}")


def _load_positions(model: Ovsam, sam: Checkpoint) -> None:
    """Load SAM's absolute positions into the neck, if SAM has any of the neck's width.

    The released code takes SAM-H's. A neck of another width has none: the relative positions
    inside its blocks remain.
    """
    table = sam.state.get(SAM_POSITIONS)
    if table is not None and table.shape[-1] == model.config.neck.width:
        grid = model.neck.grid
        model.neck.pos_embed.copy_(resize_absolute(table.float(), (grid, grid)))


def _initialise_backbone(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _parts(state: Mapping[str, Tensor]) -> dict[str, StateDict]:
    """Group tensors by the part of the model that they belong to."""
    parts: dict[str, StateDict] = {}
    for key, tensor in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor.float() if tensor.is_floating_point() else tensor
    return parts


def _text_file(files: OvsamFiles) -> Checkpoint:
    file = files.text or files.clip
    if file is None:
        raise CheckpointError(
            "an Open-Vocabulary SAM needs a text tower; give CLIP's checkpoint or a tower's"
        )
    return read_checkpoint(file)
