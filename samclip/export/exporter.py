"""The whole export: assemble the model, write its graphs, prove them equal, write the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from samclip.errors import ExportError
from samclip.export.assemble import Assembly, Checkpoints, assemble
from samclip.export.graph_files import GraphFiles, write_graph, write_plain_graph
from samclip.export.metadata import MergedMetadata
from samclip.export.models.merged import MergedModel
from samclip.export.options import ExportOptions
from samclip.export.photos import photo_paths
from samclip.export.progress import Progress, silent
from samclip.export.rounding import GraphPair
from samclip.export.specs import clip_head_spec, encoder_spec, mask_decoder_spec, text_encoder_spec
from samclip.export.verification import Proof, verify
from samclip.export.weight_storage import store_weights, stored_space
from samclip.runtime.bundles.bundle import Bundle, write_bundle
from samclip.runtime.bundles.manifest import (
    ClipHead,
    Graphs,
    Manifest,
    Preprocessing,
    Provenance,
    Text,
)
from samclip.runtime.bundles.write import check_target
from samclip.runtime.texts.templates import resolve_templates
from samclip.runtime.texts.text_space import TextSpace
from samclip.runtime.texts.tokenizer import Tokenizer
from samclip.version import __version__

TOKENIZER_FILE = "tokenizer.json"
LABELS_FILE = "labels.json"
EMBEDDINGS_FILE = "label_embeddings.f32"
UNTRAINED_NOTE = (
    "The CLIP head was never trained: masks are real, names (classify, semantic, names=) are noise."
)


@dataclass(frozen=True)
class Export:
    """A finished export: the bundle's folder and its manifest."""

    path: Path
    manifest: Manifest


def export_bundle(options: ExportOptions, progress: Progress = silent) -> Export:
    """Make a bundle from checkpoints; on any failure nothing is left at `options.output`.

    Raises CheckpointError for weights that do not fit, ParityError when a graph differs from the
    torch model, ExportError or BundleError when the bundle cannot be made.
    """
    _check_early(options)
    with progress("reading checkpoints"):
        files = Checkpoints(options.checkpoint, options.clip_checkpoint, options.text_checkpoint)
        assembly = assemble(
            files,
            options.model_type,
            options.image_size,
            options.head_pool,
            options.quick_gelu,
        )
    if options.labels and assembly.model.text is None:
        raise ExportError(
            "--labels needs a text tower to embed them; give --text-checkpoint or --clip-checkpoint"
        )
    pixels = Preprocessing(
        image_size=assembly.metadata.image_size,
        mean=assembly.metadata.mean,
        std=assembly.metadata.std,
    )
    graphs = _graphs(assembly.model, options, progress)
    pairs = [GraphPair(g, store_weights(g, options.weights_dtype.of(g.name))) for g in graphs]
    proof = Proof()
    if options.verify:
        tokens = _token_batches(assembly)
        proof = verify(assembly.model, pixels, tokens, pairs, options.photos, progress)
    text, text_files = _text(assembly, options, progress)
    manifest = Manifest(
        name=options.output.name,
        model_type=assembly.metadata.model_type,
        preprocessing=pixels,
        graphs=Graphs(**{pair.stored.name: pair.stored.graph for pair in pairs}),
        files={},
        provenance=_provenance(assembly.metadata),
        clip_head=ClipHead(
            trained=assembly.metadata.head_trained,
            embed_dim=assembly.metadata.embed_dim,
            grid=assembly.model.clip_head.config.tokens,
        ),
        text=text,
        parity=proof.parity,
        rounding=proof.rounding,
    )
    contents: dict[str, bytes | Path] = dict(text_files)
    for pair in pairs:
        contents.update(pair.stored.files)
    with progress(f"writing the bundle to {options.output}"):
        path = write_bundle(options.output, manifest, contents, overwrite=options.overwrite)
    return Export(path, Bundle.open(path).manifest)


def _check_early(options: ExportOptions) -> None:
    """Fail before the long work, rather than after it, where that can be told."""
    check_target(options.output, options.overwrite)
    resolve_templates(options.templates)
    if options.verify and not photo_paths(options.photos):
        raise ExportError(f"no images in {options.photos} to verify on; give a folder of photos")


def _graphs(model: MergedModel, options: ExportOptions, progress: Progress) -> list[GraphFiles]:
    """Export every graph that the bundle will hold."""
    forms, kind = options.attention, (options.opset, options.precision)
    makers: list[tuple[str, Callable[[], GraphFiles]]] = [
        (
            "encoder",
            lambda: write_graph("encoder", lambda f: encoder_spec(model, f), forms, *kind),
        ),
        (
            "clip_head",
            lambda: write_graph("clip_head", lambda f: clip_head_spec(model, f), forms, *kind),
        ),
        (
            "mask_decoder",
            lambda: write_plain_graph("mask_decoder", mask_decoder_spec(model), *kind),
        ),
    ]
    tower = model.text
    if tower is not None and options.text_encoder:
        makers.append(
            (
                "text_encoder",
                lambda: write_plain_graph("text_encoder", text_encoder_spec(tower), *kind),
            )
        )
    graphs = []
    for name, make in makers:
        with progress(f"exporting the {name} graph"):
            graphs.append(make())
    return graphs


def _token_batches(assembly: Assembly) -> list[NDArray[np.int64]]:
    """One prompt, and several of different lengths; nothing without a text tower."""
    if assembly.model.text is None:
        return []
    tokenizer = _tokenizer(assembly)
    several = ["a photo of a cup.", "road", "a bad photo of the hard to see espresso machine."]
    return [tokenizer(["a photo of a cat."]), tokenizer(several)]


def _tokenizer(assembly: Assembly) -> Tokenizer:
    if assembly.tokenizer is None or assembly.model.text is None:
        raise ExportError("there is no text tower to tokenize for; give --text-checkpoint")
    return Tokenizer.from_bytes(assembly.tokenizer, assembly.model.text.config.context_length)


def _text(
    assembly: Assembly, options: ExportOptions, progress: Progress
) -> tuple[Text | None, dict[str, bytes]]:
    """Describe the text space, and make its files: tokenizer, ready-made label embeddings."""
    described, tower = assembly.metadata.text, assembly.model.text
    if described is None:
        return None, {}
    files: dict[str, bytes] = {}
    if assembly.tokenizer is not None and options.text_encoder:
        files[TOKENIZER_FILE] = assembly.tokenizer
    if tower is not None and options.labels:
        with progress(f"embedding {len(options.labels)} labels"):
            files |= _label_files(assembly, options)
    text = Text(
        model=described.model,
        space=stored_space(described.space, options.weights_dtype.of("text_encoder")),
        embed_dim=assembly.metadata.embed_dim,
        logit_scale=described.logit_scale,
        templates=options.templates,
        tokenizer=TOKENIZER_FILE if TOKENIZER_FILE in files else None,
        context_length=tower.config.context_length if tower is not None else 77,
        labels=LABELS_FILE if LABELS_FILE in files else None,
        label_embeddings=EMBEDDINGS_FILE if EMBEDDINGS_FILE in files else None,
    )
    return text, files


def _label_files(assembly: Assembly, options: ExportOptions) -> dict[str, bytes]:
    """Embed the labels with the torch tower: names as JSON, vectors as little-endian float32."""
    tower, described = assembly.model.text, assembly.metadata.text
    if tower is None or described is None:
        raise ExportError("labels cannot be embedded without a text tower")

    @torch.inference_mode()
    def encode(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(tower(torch.from_numpy(tokens)).numpy(), np.float32)

    space = TextSpace(
        encode=encode,
        tokenizer=_tokenizer(assembly),
        space=described.space,
        embed_dim=assembly.metadata.embed_dim,
        templates=resolve_templates(options.templates),
    )
    vectors = space.embed(options.labels)
    return {
        LABELS_FILE: json.dumps(list(options.labels), ensure_ascii=False).encode(),
        EMBEDDINGS_FILE: vectors.astype("<f4").tobytes(),
    }


def _provenance(metadata: MergedMetadata) -> Provenance:
    notes = [metadata.notes] if metadata.notes else []
    if not metadata.head_trained:
        notes.append(UNTRAINED_NOTE)
    return Provenance(
        sources=metadata.sources,
        samclip=__version__,
        torch=str(torch.__version__),
        onnx=str(onnx.__version__),
        notes=" ".join(notes),
    )
