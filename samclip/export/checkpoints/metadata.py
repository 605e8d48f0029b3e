"""What a merged checkpoint says of itself, in the header of its safetensors file.

What is said, wherever an export reports, of a model that was never taught to name.
"""

from __future__ import annotations

import msgspec

from samclip.errors import CheckpointError
from samclip.export.models.bert_tower import BertTowerConfig
from samclip.export.models.text_tower import TextTowerConfig
from samclip.runtime.bundles.manifest import Positive, Record, Source, Triple

METADATA_KEY = "samclip"
TOKENIZER_KEY = "samclip.tokenizer"  # the content of tokenizer.json, for towers that bring one

# segment-anything's pixel statistics: a shared pass that starts from SAM's encoder keeps them.
SAM_MEAN: Triple = (123.675, 116.28, 103.53)
SAM_STD: Triple = (58.395, 57.12, 57.375)


class TextMetadata(Record, frozen=True, kw_only=True):
    """The text tower whose space the head was trained in.

    `clip` or `bert`: its sizes, where its weights are inside the checkpoint.
    """

    model: str
    logit_scale: float
    space: str = ""  # SHA-256 that names the tower's text space
    clip: TextTowerConfig | None = None
    bert: BertTowerConfig | None = None


class MergedMetadata(Record, frozen=True, kw_only=True):
    """Everything needed to rebuild the model around the tensors.

    `pyramid` is a stitched encoder's: divisors of the image size.
    """

    format: int = 1
    name: str = "merged"
    model_type: str
    image_size: Positive
    embed_dim: Positive
    head_pool: Positive = 1
    pyramid: tuple[Positive, ...] = (1,)
    head_trained: bool = False
    mean: Triple = SAM_MEAN
    std: Triple = SAM_STD
    text: TextMetadata | None = None
    license: str = "unknown"
    sources: tuple[Source, ...] = ()
    notes: str = ""


def encode_metadata(metadata: MergedMetadata) -> dict[str, str]:
    """Make the header entry that `decode_metadata` reads."""
    return {METADATA_KEY: msgspec.json.encode(metadata).decode()}


def decode_metadata(header: dict[str, str], file: str) -> MergedMetadata:
    """Read a merged checkpoint's header; raises CheckpointError if it is absent or malformed."""
    try:
        return msgspec.json.decode(header[METADATA_KEY].encode(), type=MergedMetadata)
    except KeyError:
        raise CheckpointError(
            f"{file} has clip_head weights but no {METADATA_KEY!r} metadata; "
            "save merged checkpoints with samclip.export.families.merged_assembly.save_merged"
        ) from None
    except msgspec.MsgspecError as error:
        raise CheckpointError(
            f"the metadata of {file} cannot be read: {error}; save it again with this version of "
            "samclip"
        ) from error
