"""The whole export: read the model, write its graphs, prove them equal, write the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import onnx
import torch

from samclip.errors import ExportError
from samclip.export.bundle_texts import bundle_text, token_batches
from samclip.export.exportable import Exportable, GraphPlan, plain
from samclip.export.graph_files import GraphFiles, described, without_unused
from samclip.export.options import ExportOptions
from samclip.export.precision.keep import parse_keep
from samclip.export.precision.photo_sets import photo_sets
from samclip.export.progress import Progress, silent
from samclip.export.read_model import read_model
from samclip.export.rounding import GraphPair
from samclip.export.specs import text_encoder_spec
from samclip.export.untrained import untrained_note
from samclip.export.verification import Proof, verify
from samclip.export.weight_storage import store_weights
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import ClipHead, Manifest, Provenance, RegionHead
from samclip.runtime.bundles.writing import check_target, write_bundle
from samclip.runtime.pixels.image import photo_paths
from samclip.runtime.text.templates import resolve_templates
from samclip.version import __version__


@dataclass(frozen=True)
class Export:
    """A finished export: the bundle's folder and its manifest."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class _Draft:
    """A bundle in memory: graphs as they were exported, and as they are stored; texts' files."""

    manifest: Manifest
    texts: Mapping[str, bytes]
    graphs: tuple[GraphFiles, ...]
    stored: tuple[GraphFiles, ...]


def export_bundle(options: ExportOptions, progress: Progress = silent) -> Export:
    """Make a bundle from checkpoints; on any failure nothing is left at `options.output`.

    Raises CheckpointError for weights that do not fit, ParityError when a graph differs from the
    torch model, ExportError or BundleError when the bundle cannot be made.
    """
    _check_early(options)
    draft = _in_full_precision(options, progress)  # the torch model is not needed any more
    if options.precision.precisions:
        draft = _reduced(draft, options, progress)
    stored = [without_unused(files) for files in draft.stored]
    manifest = msgspec.structs.replace(draft.manifest, graphs=described(stored))
    contents = {name: data for files in stored for name, data in files.files.items()}
    with progress(f"writing the bundle to {options.output}"):
        path = write_bundle(
            options.output, manifest, {**draft.texts, **contents}, overwrite=options.overwrite
        )
    return Export(path, Bundle.open(path).manifest)


def store(files: GraphFiles, options: ExportOptions) -> GraphFiles:
    """Give a graph with its weights stored as the options say."""
    return store_weights(files, options.weights_dtype.of(files.name))


def write_graphs(
    model: Exportable, options: ExportOptions, progress: Progress = silent
) -> list[GraphFiles]:
    """Export every graph that the bundle will hold."""
    graphs = []
    for plan in _plans(model, options):
        with progress(f"exporting the {plan.name} graph"):
            graphs.append(plan.write(options.attention, options.opset))
    return graphs


def _check_early(options: ExportOptions) -> None:
    """Fail before the long work, rather than after it, where that can be told."""
    check_target(options.output, options.overwrite)
    if options.templates is not None:
        resolve_templates(options.templates)
    if options.verify and not photo_paths(options.photos):
        raise ExportError(f"no images in {options.photos} to verify on; give a folder of photos")
    if options.precision.precisions:
        photo_sets(options)
        parse_keep(options.precision.keep_fp32)


def _in_full_precision(options: ExportOptions, progress: Progress) -> _Draft:
    """Export and verify everything in FP32, but do not write it yet."""
    with progress("reading checkpoints"):
        model = read_model(options)
    if options.labels and (model.text is None or model.text.tower is None):
        raise ExportError(
            "--labels needs a text tower to embed them; give --text-checkpoint or --clip-checkpoint"
        )
    graphs = write_graphs(model, options, progress)
    pairs = [GraphPair(files, store(files, options)) for files in graphs]
    proof = Proof()
    if options.verify:
        proof = verify(model, token_batches(model.text), pairs, options.photos, progress)
    text, texts = bundle_text(model, options, progress)
    clip, regions = _heads(model.head)
    manifest = Manifest(
        name=options.output.name,
        model_type=model.model_type,
        preprocessing=model.pixels,
        graphs=described(graphs),
        files={},
        provenance=_provenance(model),
        clip_head=clip,
        region_head=regions,
        text=text,
        parity=proof.parity,
        rounding=proof.rounding,
    )
    return _Draft(manifest, texts, tuple(graphs), tuple(pair.stored for pair in pairs))


def _reduced(draft: _Draft, options: ExportOptions, progress: Progress) -> _Draft:
    """Add the reduced precisions: every graph with all its variants, and what each costs."""
    # What quantises takes a second to import, and most exports do without.
    from samclip.export.precision.chain import DraftBundle  # noqa: PLC0415
    from samclip.export.precision.reduction import reduce_graphs  # noqa: PLC0415

    files = {name: data for graph in draft.graphs for name, data in graph.files.items()}
    bundle = DraftBundle(options.output, draft.manifest, {**draft.texts, **files})
    reduced = reduce_graphs(
        bundle, draft.graphs, options, partial(store, options=options), progress
    )
    manifest = msgspec.structs.replace(draft.manifest, reductions=reduced.reductions)
    return _Draft(manifest, draft.texts, draft.graphs, reduced.graphs)


def _plans(model: Exportable, options: ExportOptions) -> tuple[GraphPlan, ...]:
    tower = None if model.text is None else model.text.tower
    if tower is None or not options.text_encoder:
        return model.graphs
    return (*model.graphs, plain("text_encoder", partial(text_encoder_spec, tower)))


def _heads(head: ClipHead | RegionHead) -> tuple[ClipHead | None, RegionHead | None]:
    return (head, None) if isinstance(head, ClipHead) else (None, head)


def _provenance(model: Exportable) -> Provenance:
    notes = (model.notes, untrained_note(model.head))
    return Provenance(
        sources=model.sources,
        samclip=__version__,
        torch=str(torch.__version__),
        onnx=str(onnx.__version__),
        notes=" ".join(note for note in notes if note),
    )
