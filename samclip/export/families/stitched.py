"""The student of a merge before training: a recogniser's front, stitched to the back of a SAM.

All weights are those of the two origins, except the stitch between them, which is random. So names
are as good as the recogniser's from the start; masks come with the training of the stitch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samclip.errors import CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import fit_state, read_checkpoint
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.metadata import checkpoint_license
from samclip.export.checkpoints.recogniser import recogniser_state
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble
from samclip.export.models.bert_tower import BertTower
from samclip.export.models.conse_head import ConseHead
from samclip.export.models.efficientnet_lite import RECOGNISER_MEAN, RECOGNISER_STD
from samclip.export.models.merged import STITCHED_TYPE, AnyTextTower, MergedModel
from samclip.export.models.siglip_tower import SiglipTower
from samclip.export.models.stitched_encoder import FIRST_STAGE, StitchedEncoder
from samclip.export.models.tiny_vit import TinyVit
from samclip.runtime.bundles.manifest import Source
from samclip.runtime.text.text_space import TextSpace
from samclip.runtime.text.tokenizer import Tokenizer

PYRAMID = (1, 2, 4)
NAME_TEMPLATES = ("{}", "a photo of a {}.")
STITCH_SEED = 0
CLASSIFIER = "head."  # the prefix of the recogniser's classifier among its keys


def assemble_stitched(
    recogniser: Path,
    sam: Path,
    text: Path | None = None,
    image_size: int = 1024,
    pyramid: tuple[int, ...] = PYRAMID,
    quick_gelu: bool | None = None,
) -> Assembly:
    """Build a `lite2` model from an EfficientNet-Lite2 and a MobileSAM, to start training from.

    With a `text` tower the head knows its classes' names in that tower's space, and counts as
    trained: it names what the recogniser sees. `quick_gelu` is a CLIP tower's activation, where no
    file next to it says it. Raises CheckpointError for files that hold
    something else, InputError for a size or a pyramid that the encoder cannot have.
    """
    file = read_checkpoint(recogniser)
    with error_context(str(recogniser)):
        weights = recogniser_state(file.state)
    base = assemble(
        Checkpoints(sam, text=text),
        model_type="vit_t",
        image_size=image_size,
        quick_gelu=quick_gelu,
    )
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
        sources=(
            Source(
                role="recogniser",
                file=file.path.name,
                sha256=file.sha256,
                license=checkpoint_license(file),
            ),
            *base.metadata.sources,
        ),
    )
    return Assembly(model.eval(), metadata, base.tokenizer)


def initialise_stitched(
    encoder: StitchedEncoder, recogniser: Mapping[str, Tensor], sam_encoder: TinyVit
) -> None:
    """Load the trained parts of a stitched encoder; only the stitch keeps its values.

    `recogniser` holds the tensors of an `EfficientNetLite` by its own keys (`recogniser_state`);
    those of its classifier are left out. Raises CheckpointError when they do not fit.
    """
    trunk = {key: value for key, value in recogniser.items() if not key.startswith(CLASSIFIER)}
    fit_state(encoder.backbone, trunk, "recogniser inside the encoder")
    back = nn.ModuleList(sam_encoder.layers[FIRST_STAGE:])
    fit_state(encoder.stages, back.state_dict(), "stages of TinyViT inside the encoder")
    fit_state(encoder.neck, sam_encoder.neck.state_dict(), "neck of the encoder")


def initialise_conse(head: ConseHead, recogniser: Mapping[str, Tensor]) -> None:
    """Load the classifier of a recogniser into a ConSE head; the keys are `EfficientNetLite`'s.

    Raises CheckpointError when they do not fit.
    """
    state = {
        k.removeprefix(CLASSIFIER): v for k, v in recogniser.items() if k.startswith(CLASSIFIER)
    }
    fit_state(head.recogniser, state, "recogniser's classifier inside the head")


def _take_parts(model: MergedModel, recogniser: Mapping[str, Tensor], sam: MergedModel) -> None:
    """Fill a stitched model with the parts of its two origins."""
    encoder = model.image_encoder
    head = model.clip_head
    origin = sam.image_encoder
    if not (
        isinstance(encoder, StitchedEncoder)
        and isinstance(head, ConseHead)
        and isinstance(origin, TinyVit)
    ):
        raise CheckpointError(
            f"only a {STITCHED_TYPE} model can be stitched, from a recogniser and a vit_t, not a "
            f"{model.config.model_type} from a {sam.config.model_type}"
        )
    initialise_stitched(encoder, recogniser, origin)
    initialise_conse(head, recogniser)
    model.prompt_encoder, model.mask_decoder = sam.prompt_encoder, sam.mask_decoder
    model.text = sam.text


def _name_classes(model: MergedModel, tokenizer_json: bytes) -> None:
    """Set the head's names of classes, embedded with the model's own text tower."""
    tower = model.text
    head = model.clip_head
    if tower is None or not isinstance(head, ConseHead):
        return
    head.set_names(embed_texts(tower, tokenizer_json, imagenet_names()))


def embed_texts(tower: AnyTextTower, tokenizer_json: bytes, names: Sequence[str]) -> Tensor:
    """Embed K names by a text tower, in `NAME_TEMPLATES`: KxD of unit length.

    Raises VocabularyError for names that cannot be used.
    """

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        if isinstance(tower, BertTower):  # padding changes no embedding, and costs time
            tokens = tokens[:, : int((tokens != tower.config.pad).sum(axis=1).max())]
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=Tokenizer.from_bytes(
            tokenizer_json, tower.config.context_length, isinstance(tower, SiglipTower)
        ),
        space="",
        embed_dim=tower.config.embed_dim,
        templates=NAME_TEMPLATES,
    )
    return torch.from_numpy(space.embed(names))
