"""The whole export: assemble the model, write its graphs, prove them equal, write the bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import torch
from msgspec.structs import replace

from samclip.errors import ExportError
from samclip.export.assemble import Checkpoints, assemble
from samclip.export.bundle_texts import bundle_text, token_batches
from samclip.export.graph_files import (
    GraphFiles,
    described,
    without_unused,
    write_graph,
    write_plain_graph,
)
from samclip.export.metadata import MergedMetadata
from samclip.export.models.merged import MergedModel
from samclip.export.options import ExportOptions
from samclip.export.photos import photo_paths
from samclip.export.precision.keep import parse_keep
from samclip.export.precision.photo_sets import photo_sets
from samclip.export.progress import Progress, silent
from samclip.export.rounding import GraphPair
from samclip.export.specs import clip_head_spec, encoder_spec, mask_decoder_spec, text_encoder_spec
from samclip.export.verification import Proof, verify
from samclip.export.weight_storage import store_weights
from samclip.runtime.bundles.bundle import Bundle, write_bundle
from samclip.runtime.bundles.manifest import (
    ClipHead,
    Manifest,
    Preprocessing,
    Provenance,
    Reduction,
)
from samclip.runtime.bundles.write import check_target
from samclip.runtime.texts.templates import resolve_templates
from samclip.version import __version__

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
    pairs = [GraphPair(files, store(files, options)) for files in graphs]
    proof = Proof()
    if options.verify:
        tokens = token_batches(assembly)
        proof = verify(assembly.model, pixels, tokens, pairs, options.photos, progress)
    text, text_files = bundle_text(assembly, options, progress)
    manifest = Manifest(
        name=options.output.name,
        model_type=assembly.metadata.model_type,
        preprocessing=pixels,
        graphs=described(graphs),
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
    stored: Sequence[GraphFiles] = [pair.stored for pair in pairs]
    if options.precision.precisions:
        stored, reductions = _reduce(manifest, text_files, graphs, options, progress)
        manifest = replace(manifest, reductions=reductions)
    stored = [without_unused(files) for files in stored]
    manifest = replace(manifest, graphs=described(stored))
    contents = text_files | {name: data for files in stored for name, data in files.files.items()}
    with progress(f"writing the bundle to {options.output}"):
        path = write_bundle(options.output, manifest, contents, overwrite=options.overwrite)
    return Export(path, Bundle.open(path).manifest)


def store(files: GraphFiles, options: ExportOptions) -> GraphFiles:
    """Give a graph with its weights stored as the options say."""
    return store_weights(files, options.weights_dtype.of(files.name))


def _reduce(
    manifest: Manifest,
    text_files: Mapping[str, bytes],
    graphs: Sequence[GraphFiles],
    options: ExportOptions,
    progress: Progress,
) -> tuple[Sequence[GraphFiles], tuple[Reduction, ...]]:
    """Add the reduced precisions: every graph with all its variants, and what each costs."""
    # What quantises takes a second to import, and most exports do without.
    from samclip.export.precision.chain import DraftBundle  # noqa: PLC0415
    from samclip.export.precision.reduction import reduce_graphs  # noqa: PLC0415

    files = {name: data for graph in graphs for name, data in graph.files.items()}
    draft = DraftBundle(options.output, manifest, {**text_files, **files})
    reduced = reduce_graphs(draft, graphs, options, partial(store, options=options), progress)
    return reduced.graphs, reduced.reductions


def _check_early(options: ExportOptions) -> None:
    """Fail before the long work, rather than after it, where that can be told."""
    check_target(options.output, options.overwrite)
    resolve_templates(options.templates)
    if options.verify and not photo_paths(options.photos):
        raise ExportError(f"no images in {options.photos} to verify on; give a folder of photos")
    if options.precision.precisions:
        photo_sets(options)
        parse_keep(options.precision.keep_fp32)


def _graphs(model: MergedModel, options: ExportOptions, progress: Progress) -> list[GraphFiles]:
    """Export every graph that the bundle will hold."""
    forms, opset = options.attention, options.opset
    makers: list[tuple[str, Callable[[], GraphFiles]]] = [
        (
            "encoder",
            lambda: write_graph("encoder", lambda f: encoder_spec(model, f), forms, opset),
        ),
        (
            "clip_head",
            lambda: write_graph("clip_head", lambda f: clip_head_spec(model, f), forms, opset),
        ),
        (
            "mask_decoder",
            lambda: write_plain_graph("mask_decoder", mask_decoder_spec(model), opset),
        ),
    ]
    tower = model.text
    if tower is not None and options.text_encoder:
        makers.append(
            (
                "text_encoder",
                lambda: write_plain_graph("text_encoder", text_encoder_spec(tower), opset),
            )
        )
    graphs = []
    for name, make in makers:
        with progress(f"exporting the {name} graph"):
            graphs.append(make())
    return graphs


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
