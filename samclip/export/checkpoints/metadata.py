"""Self-description of merged checkpoints: metadata in the header of the safetensors file.

It also names the files that a model comes from, with their licences.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint, weights_name
from samclip.export.checkpoints.declared_sizes import check_numbers
from samclip.export.checkpoints.fetch import packaged_license
from samclip.export.models.bert_tower import BertTowerConfig
from samclip.export.models.siglip_tower import SiglipTowerConfig
from samclip.export.models.taught_names import TaughtConfig
from samclip.export.models.text_tower import TextTowerConfig
from samclip.runtime.bundles.manifest import Confidence, Positive, Record, Source, Triple

HEAD = "clip_head."  # the prefix of the keys that only merged checkpoints have
TAUGHT = "taught."  # the prefix of the texts of taught names
METADATA_KEY = "samclip"
TOKENIZER_KEY = "samclip.tokenizer"  # the content of tokenizer.json, for towers that bring one

# segment-anything's pixel statistics: a shared pass that starts from SAM's encoder keeps them.
SAM_MEAN: Triple = (123.675, 116.28, 103.53)
SAM_STD: Triple = (58.395, 57.12, 57.375)


class TextMetadata(Record, frozen=True, kw_only=True):
    """The text tower whose space the head was trained in.

    `clip`, `bert` or `siglip`: its sizes, where its weights are inside the checkpoint. `canonical`:
    its texts are canonicalised, as SigLIP's are.
    """

    model: str
    logit_scale: float
    space: str = ""  # SHA-256 that names the tower's text space
    clip: TextTowerConfig | None = None
    bert: BertTowerConfig | None = None
    siglip: SiglipTowerConfig | None = None
    canonical: bool = False

    @property
    def tower(self) -> TextTowerConfig | BertTowerConfig | SiglipTowerConfig | None:
        """The sizes of the tower inside the checkpoint; None where there is none."""
        return self.clip or self.bert or self.siglip


class TaughtMetadata(Record, frozen=True, kw_only=True):
    """The names that labels taught a head: the first names of the concepts, and the gate's form.

    `texts` counts the texts of a concept. The other numbers are those of `TaughtConfig`.
    """

    names: tuple[str, ...]
    texts: Positive
    sharpness: float
    centre: float
    slope: float
    logit_scale: float
    conse_scale: float
    image_share: float
    untaught: float


class MergedMetadata(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Everything needed to rebuild the model around the tensors; defaults are left out of a file.

    `pyramid` is a stitched encoder's: divisors of the image size. `embed_dim` is that of the text
    tower's space; with `taught` names the head's embeddings have more dimensions (`joint_dim`).
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
    taught: TaughtMetadata | None = None
    confidence: Confidence | None = None
    image_confidence: float = 1.0
    license: str = "unknown"
    sources: tuple[Source, ...] = ()
    notes: str = ""

    @property
    def taught_config(self) -> TaughtConfig | None:
        """The sizes and the gate of the taught names; InputError for numbers out of range."""
        taught = self.taught
        if taught is None:
            return None
        return TaughtConfig(
            concepts=len(taught.names),
            texts=taught.texts,
            embed_dim=self.embed_dim,
            sharpness=taught.sharpness,
            centre=taught.centre,
            slope=taught.slope,
            logit_scale=taught.logit_scale,
            conse_scale=taught.conse_scale,
            image_share=taught.image_share,
            untaught=taught.untaught,
        )

    @property
    def joint_dim(self) -> int:
        """The dimension of the embeddings that the head gives, and of those of names."""
        taught = self.taught_config
        return self.embed_dim if taught is None else taught.joint_dim


def encode_metadata(metadata: MergedMetadata) -> dict[str, str]:
    """Return the header entry that `decode_metadata` reads."""
    return {METADATA_KEY: msgspec.json.encode(metadata).decode()}


def decode_metadata(header: dict[str, str], file: str) -> MergedMetadata:
    """Read a merged checkpoint's header; raises CheckpointError if it is absent or malformed."""
    try:
        found = msgspec.json.decode(header[METADATA_KEY].encode(), type=MergedMetadata)
    except KeyError:
        raise CheckpointError(
            f"{file} has clip_head weights but no {METADATA_KEY!r} metadata; "
            "save merged checkpoints with samclip.export.families.merged_assembly.save_merged"
        ) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata of {file} cannot be read: {error}; save it again with this version of "
            "samclip"
        ) from error
    check_numbers(file, found.mean, found.std, found.text.logit_scale if found.text else None)
    return found


def source_of(
    role: Literal["sam", "clip_head", "recogniser", "text", "merged"], checkpoint: Checkpoint
) -> Source:
    """Describe a checkpoint that goes into a model, in the given role."""
    return Source(
        role=role,
        file=checkpoint.label or weights_name(checkpoint.path),
        sha256=checkpoint.sha256,
        license=checkpoint_license(checkpoint),
    )


def checkpoint_license(checkpoint: Checkpoint) -> str:
    """Return the licence that the file states, or that is known for a packaged checkpoint."""
    packaged = packaged_license(checkpoint.sha256)
    if packaged is not None:
        return packaged
    if checkpoint.has(HEAD) and checkpoint.metadata:
        return decode_metadata(dict(checkpoint.metadata), checkpoint.path.name).license
    return "unknown"
