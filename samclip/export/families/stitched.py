"""The student of a merge before its training: a recogniser's front and a SAM's back, put together.

Everything is its origins' own but the stitch between them, which is random. So names are as good as
the recogniser's from the start, and masks come with the stitch.

Reading the published EfficientNet-Lite weights, whose keys have the names of another port.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    fit_state,
    read_checkpoint,
    some_keys,
)
from samclip.export.checkpoints.fetch import imagenet_names
from samclip.export.families.merged_assembly import (
    Assembly,
    Checkpoints,
    assemble,
    checkpoint_license,
)
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.conse_head import ConseHead
from samclip.export.models.efficientnet_lite import (
    LITE2,
    RECOGNISER_MEAN,
    RECOGNISER_STD,
    EfficientNetLite,
    EfficientNetLiteConfig,
)
from samclip.export.models.merged import STITCHED_TYPE, MergedModel
from samclip.export.models.stitched_encoder import FIRST_STAGE, StitchedEncoder
from samclip.export.models.tiny_vit import TinyVit
from samclip.runtime.bundles.manifest import Source
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer

BLOCK_NAMES = {
    "_expand_conv": "expand.c",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.c",
    "_bn1": "depthwise.bn",
    "_project_conv": "project.c",
    "_bn2": "project.bn",
}
OUTER_NAMES = {
    "_conv_stem": "stem.c",
    "_bn0": "stem.bn",
    "_conv_head": "head.conv.c",
    "_bn1": "head.conv.bn",
    "_fc": "head.classifier",
}
KEY = re.compile(r"(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_\w+?)\.(?P<tensor>\w+)")


def recogniser_state(state: Mapping[str, Tensor]) -> StateDict:
    """Rename the tensors of a published EfficientNet-Lite to those of `EfficientNetLite`.

    Keys such as `_conv_stem.weight` and `_blocks.3._bn1.running_mean` are known. Raises
    CheckpointError for any other.
    """
    renamed = {key: _rename(key) for key in state}
    unknown = [key for key, ours in renamed.items() if ours is None]
    if unknown or not state:
        raise CheckpointError(
            "this is no EfficientNet-Lite checkpoint: expected keys such as _conv_stem.weight and "
            f"_blocks.0._bn1.weight, found {some_keys(unknown) or 'none'}; "
            "give the weights of the packaged checkpoint efficientnet_lite2"
        )
    return {ours: state[key] for key, ours in renamed.items() if ours is not None}


def load_recogniser(
    state: Mapping[str, Tensor], config: EfficientNetLiteConfig = LITE2
) -> EfficientNetLite:
    """Make a recogniser, classifier and all, in eval mode from a published checkpoint's tensors.

    Raises CheckpointError when they are those of another network or another scaling.
    """
    model = EfficientNetLite(config, head=True)
    fit_state(model, recogniser_state(state), "EfficientNet-Lite recogniser")
    return model.eval()


def _rename(key: str) -> str | None:
    """Tell our name of a published tensor; None for one that is not known."""
    match = KEY.fullmatch(key)
    if match is None:
        return None
    block, layer, tensor = match["block"], match["layer"], match["tensor"]
    if block is None:
        name = OUTER_NAMES.get(layer)
    else:
        name = BLOCK_NAMES.get(layer)
        name = None if name is None else f"blocks.{block}.{name}"
    return None if name is None else f"{name}.{tensor}"


PYRAMID = (1, 2, 4)
NAME_TEMPLATES = ("{}", "a photo of a {}.")
STITCH_SEED = 0
HEAD = "head."  # the recogniser's classifier among its own keys


def assemble_stitched(
    recogniser: Path,
    sam: Path,
    text: Path | None = None,
    image_size: int = 1024,
    pyramid: tuple[int, ...] = PYRAMID,
) -> Assembly:
    """Build a `lite2` model of an EfficientNet-Lite2 and a MobileSAM, for training to begin with.

    With a `text` tower the head knows its classes' names in that tower's space, and counts as
    trained: what it says is what the recogniser sees. Raises CheckpointError for files that hold
    something else, InputError for a size or a pyramid that the encoder cannot have.
    """
    file = read_checkpoint(recogniser)
    with error_context(str(recogniser)):
        weights = recogniser_state(file.state)
    base = assemble(Checkpoints(sam, text=text), model_type="vit_t", image_size=image_size)
    torch.manual_seed(STITCH_SEED)  # the same stitch every time
    model = MergedModel(replace(base.model.config, model_type=STITCHED_TYPE, pyramid=pyramid))
    _take_parts(model, weights, base.model)
    if base.tokenizer is not None:
        _name_classes(model, base.tokenizer)
    metadata = msgspec.structs.replace(
        base.metadata,
        model_type=STITCHED_TYPE,
        pyramid=pyramid,
        mean=RECOGNISER_MEAN,
        std=RECOGNISER_STD,
        head_trained=base.tokenizer is not None,
        sources=(_source(file), *base.metadata.sources),
    )
    return Assembly(model.eval(), metadata, base.tokenizer)


def initialise_stitched(
    encoder: StitchedEncoder, recogniser: Mapping[str, Tensor], sam_encoder: TinyVit
) -> None:
    """Give a stitched encoder its trained parts; only the stitch keeps the values it has.

    `recogniser` holds the tensors of an `EfficientNetLite` by its own keys (`recogniser_state`);
    those of its classifier are left out. Raises CheckpointError when they do not fit.
    """
    trunk = {key: value for key, value in recogniser.items() if not key.startswith(HEAD)}
    fit_state(encoder.backbone, trunk, "recogniser inside the encoder")
    back = nn.ModuleList(sam_encoder.layers[FIRST_STAGE:])
    fit_state(encoder.stages, back.state_dict(), "stages of TinyViT inside the encoder")
    fit_state(encoder.neck, sam_encoder.neck.state_dict(), "neck of the encoder")


def initialise_conse(head: ConseHead, recogniser: Mapping[str, Tensor]) -> None:
    """Give a ConSE head the classifier of a recogniser, whose tensors have its own keys.

    Raises CheckpointError when they do not fit.
    """
    state = {k.removeprefix(HEAD): v for k, v in recogniser.items() if k.startswith(HEAD)}
    fit_state(head.recogniser, state, "recogniser's classifier inside the head")


def _take_parts(model: MergedModel, recogniser: Mapping[str, Tensor], sam: MergedModel) -> None:
    """Fill a stitched model from its two origins."""
    encoder, head, origin = model.image_encoder, model.clip_head, sam.image_encoder
    if not (
        isinstance(encoder, StitchedEncoder)
        and isinstance(head, ConseHead)
        and isinstance(origin, TinyVit)
    ):
        raise CheckpointError(
            f"only a {STITCHED_TYPE} model can be stitched, of a recogniser and a vit_t, not a "
            f"{model.config.model_type} of a {sam.config.model_type}"
        )
    initialise_stitched(encoder, recogniser, origin)
    initialise_conse(head, recogniser)
    model.prompt_encoder, model.mask_decoder = sam.prompt_encoder, sam.mask_decoder
    model.text = sam.text


def _name_classes(model: MergedModel, tokenizer_json: bytes) -> None:
    """Embed the names of the classes with the model's own text tower, and give them to its head."""
    tower, head = model.text, model.clip_head
    if tower is None or not isinstance(head, ConseHead):
        return

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if isinstance(tower, BertTower):  # padding has no part in its embeddings, only in its time
            tokens = tokens[:, : int((tokens != tower.config.pad).sum(axis=1).max())]
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=Tokenizer.from_bytes(tokenizer_json, tower.config.context_length),
        space="",
        embed_dim=model.config.embed_dim,
        templates=NAME_TEMPLATES,
    )
    head.set_names(torch.from_numpy(space.embed(imagenet_names())))


def _source(recogniser: Checkpoint) -> Source:
    return Source(
        role="recogniser",
        file=recogniser.path.name,
        sha256=recogniser.sha256,
        license=checkpoint_license(recogniser),
    )
