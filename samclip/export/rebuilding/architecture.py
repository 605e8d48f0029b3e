"""The architecture of a bundle's model: from its file `checkpoint.json`, or read off its manifest.

The file is the header that the same model has as a checkpoint. Bundles that were exported before
there was one are of few architectures, and their manifests and graphs show which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from samclip.errors import CheckpointError
from samclip.export.checkpoints.metadata import METADATA_KEY, MergedMetadata, TextMetadata
from samclip.export.checkpoints.text_checkpoint import usual_heads
from samclip.export.families.ovsam_assembly import METADATA_KEY as OVSAM_KEY
from samclip.export.families.ovsam_assembly import OvsamMetadata
from samclip.export.families.stitched import PYRAMID
from samclip.export.models.bert_tower import POSITIONS, BertTowerConfig
from samclip.export.models.efficientnet_lite import LITE2
from samclip.export.models.merged import MODEL_TYPES, PATCH, STITCHED_TYPE
from samclip.export.models.ovsam.clip_resnet import ResNetConfig
from samclip.export.models.ovsam.convnext import ConvNextConfig
from samclip.export.models.ovsam.model import OVSAM_CONFIGS
from samclip.export.models.text_tower import TextTowerConfig
from samclip.export.rebuilding.stored_graphs import StoredGraph, constant_of
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ClipHead, Manifest, Source, Text

CHECKPOINT_FILE = "checkpoint.json"
MAX_BYTES = 2**20
SHAPES_NOTE = re.compile(r" ?Inputs of [0-9x, ]+ pixels; on .*$")  # at the end, by `compare_shapes`
Metadata = MergedMetadata | OvsamMetadata

TOWER = re.compile(
    r"(?P<kind>BERT sentence encoder|CLIP text transformer) "
    r"(?P<width>\d{1,5})x(?P<layers>\d{1,3}) -> (?P<embed_dim>\d{1,5})(?P<quick>, QuickGELU)?"
)
BERT_HEADS = 12  # of BERT-base, MiniLM and all that are derived from them
BERT_HIDDEN = 4  # times the width, in the same


def encode_header(header: Mapping[str, str]) -> bytes:
    """Return the bytes of `checkpoint.json` for a checkpoint's header."""
    return msgspec.json.format(msgspec.json.encode(dict(header)), indent=1) + b"\n"


def read_architecture(bundle: Bundle, graphs: Sequence[StoredGraph]) -> Metadata:
    """Return what a checkpoint of the bundle's model would say of itself.

    Numbers, sources and notes are those of the manifest; the bundle's own entry is the first of
    the sources' successors, which reading a checkpoint adds. Raises CheckpointError for a model
    that is not known here.
    """
    manifest = bundle.manifest
    known = _declared(bundle) if CHECKPOINT_FILE in manifest.files else None
    metadata = known or _inferred(manifest, graphs)
    if metadata.model_type != manifest.model_type:
        raise CheckpointError(
            f"{CHECKPOINT_FILE} declares a {metadata.model_type}, and the manifest a "
            f"{manifest.model_type}; one of them is damaged. Export the bundle again."
        )
    text = metadata.text
    if text is not None and manifest.text is not None:
        if manifest.graphs.text_encoder is None:  # its space alone
            text = msgspec.structs.replace(text, clip=None, bert=None, siglip=None)
        text = msgspec.structs.replace(
            text,
            model=manifest.text.model,
            logit_scale=manifest.text.logit_scale,
            space=manifest.text.space,
        )
    pixels = manifest.preprocessing
    return msgspec.structs.replace(
        metadata,
        name=manifest.name,
        image_size=pixels.image_size,
        mean=pixels.mean,
        std=pixels.std,
        head_trained=manifest.head is not None and manifest.head.trained,
        **_confidence(manifest.clip_head),
        text=text,
        license=_license(manifest.provenance.sources),
        sources=manifest.provenance.sources,
        notes=SHAPES_NOTE.sub("", manifest.provenance.notes),  # an export says its own
    )


def _confidence(head: ClipHead | None) -> dict[str, Any]:
    names = () if head is None else ("confidence", "image_confidence")
    return {name: getattr(head, name) for name in names}


def _declared(bundle: Bundle) -> Metadata:
    data = bundle.read(CHECKPOINT_FILE)
    try:
        header = msgspec.json.decode(data, type=dict[str, str]) if len(data) < MAX_BYTES else {}
        if OVSAM_KEY in header:
            return msgspec.json.decode(header[OVSAM_KEY], type=OvsamMetadata)
        return msgspec.json.decode(header[METADATA_KEY], type=MergedMetadata)
    except (msgspec.MsgspecError, KeyError, RecursionError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{CHECKPOINT_FILE} cannot be read: {error}. Export the bundle again with this version "
            "of samclip."
        ) from error


def _inferred(manifest: Manifest, graphs: Sequence[StoredGraph]) -> Metadata:
    size, head = manifest.preprocessing.image_size, manifest.clip_head
    text = None if manifest.text is None else _text(manifest.text, graphs)
    if (known := OVSAM_CONFIGS.get(manifest.model_type)) is not None and text is not None:
        backbone = known.backbone
        return OvsamMetadata(
            model_type=manifest.model_type,
            image_size=size,
            backbone=backbone if isinstance(backbone, ResNetConfig) else None,
            convnext=backbone if isinstance(backbone, ConvNextConfig) else None,
            neck=known.neck,
            fpn_channels=known.fpn_channels,
            text=text,
        )
    if manifest.model_type not in MODEL_TYPES or head is None:
        raise CheckpointError(
            f"its model type {manifest.model_type!r} is not one that weights can be taken from "
            f"without a {CHECKPOINT_FILE}, only {', '.join((*MODEL_TYPES, *OVSAM_CONFIGS))}. Give "
            "the checkpoint that the bundle comes from."
        )
    is_stitched = manifest.model_type == STITCHED_TYPE
    channels = manifest.graphs.encoder.outputs[0].shape[1]
    levels = int(channels) // LITE2.channels[-1] if is_stitched else 1
    return MergedMetadata(
        model_type=manifest.model_type,
        image_size=size,
        embed_dim=head.embed_dim,
        head_pool=1 if is_stitched else max(size // PATCH // head.grid, 1),
        pyramid=PYRAMID[:levels] if is_stitched else (1,),
        text=text,
    )


def _text(text: Text, graphs: Sequence[StoredGraph]) -> TextMetadata:
    """Describe a text tower from the words of the manifest and the tables of its graph."""
    described = TextMetadata(model=text.model, logit_scale=text.logit_scale, space=text.space)
    graph = next((each for each in graphs if each.name == "text_encoder"), None)
    if graph is None:
        return described  # its space alone
    words = TOWER.fullmatch(text.model)
    if words is None:
        raise CheckpointError(
            f"its text tower {text.model!r} is not one that weights can be taken from. Give "
            "--text-checkpoint, or the checkpoint that the bundle comes from."
        )
    width, layers = int(words["width"]), int(words["layers"])
    tables = dict(_tables(graph, width))
    vocabulary = max(tables.values(), default=1)
    if words["kind"].startswith("BERT"):
        bert = BertTowerConfig(
            width=width,
            heads=BERT_HEADS,
            layers=layers,
            hidden=BERT_HIDDEN * width,
            vocab_size=vocabulary,
            positions=tables.get(POSITIONS, 512),
            context_length=text.context_length,
        )
        return msgspec.structs.replace(described, bert=bert)
    clip = TextTowerConfig(
        width=width,
        heads=usual_heads(width),
        layers=layers,
        embed_dim=int(words["embed_dim"]),
        context_length=text.context_length,
        vocab_size=vocabulary,
        quick_gelu=words["quick"] is not None,
    )
    return msgspec.structs.replace(described, clip=clip)


def _tables(graph: StoredGraph, width: int) -> Iterator[tuple[str, int]]:
    """Yield the name and the rows of every matrix of a graph with `width` columns."""
    for name, value in graph.model.graph.initializers.items():
        array = constant_of(value)
        if array is not None and array.ndim == 2 and array.shape[1] == width:
            yield name.removesuffix("_expanded"), array.shape[0]


def _license(sources: Sequence[Source]) -> str:
    """Return the licences of all weights that a bundle holds; a teacher's are not in it."""
    found = {each.license for each in sources if each.role != "teacher"}
    return " AND ".join(sorted(found))[:256] or "unknown"
