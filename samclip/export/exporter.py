"""The whole export: plan, read the model, write its graphs, prove them equal, write the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from msgspec.structs import replace

from samclip.engines.graphs.gate import check_source
from samclip.errors import ExportError, GraphError
from samclip.export.canvases import (
    at_canvases,
    canvases_of,
    share_weights_files,
    weights_owner,
)
from samclip.export.exportable import Exportable
from samclip.export.families.read_model import read_model
from samclip.export.graph_files import GraphFiles, described, with_graphs, without_unused
from samclip.export.models.mask_upscaler import mask_upscaler_graph, mask_upscaler_samples
from samclip.export.naming_head import WAYS_OUT, is_untrained_clip, untrained_note
from samclip.export.options import ExportOptions
from samclip.export.plan import ExportPlan, ReductionPlan, plan_export, require_place
from samclip.export.rebuilding.architecture import CHECKPOINT_FILE, encode_header
from samclip.export.strips import in_strips
from samclip.export.text_part import TEXT_ENCODER, bundle_text, text_encoder_graph, text_samples
from samclip.export.uint8_input import with_uint8_input
from samclip.export.verification import GraphPair, Proof, Sample, verify
from samclip.export.weight_storage import store_weights
from samclip.progress import SILENT, Progress, track
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import (
    SHAPED_GRAPHS,
    ClipHead,
    ClipTower,
    Manifest,
    Provenance,
    RegionHead,
    WeightsDtype,
    base_name,
    shaped_name,
)
from samclip.runtime.bundles.writing import write_bundle
from samclip.version import __version__

SHAPED_PHOTOS = 2  # on which the graphs of a further shape are verified


@dataclass(frozen=True)
class Export:
    """A finished export: the bundle's folder and its manifest."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class _Draft:
    """A bundle in memory: its manifest, its text files, and each graph exported and stored."""

    manifest: Manifest
    texts: Mapping[str, bytes]
    graphs: tuple[GraphPair, ...]


def export_bundle(options: ExportOptions, progress: Progress = SILENT) -> Export:
    """Make a bundle from checkpoints; on any failure nothing is left at `options.output`.

    Raises CheckpointError for weights that do not fit, ParityError when a graph differs from the
    torch model, ExportError or BundleError when the bundle cannot be made.
    """
    plan = plan_export(options)
    draft = _export_in_fp32(plan, progress)  # the torch model is not needed any more
    if plan.reduction is not None:
        draft = _reduce(draft, plan.reduction, options, progress)
    stored = finish_graphs(pair.stored for pair in draft.graphs)
    check_readable(stored)
    manifest = with_graphs(draft.manifest, stored)
    graph_files = {name: data for files in stored for name, data in files.files.items()}
    texts = _embedded_again(options, manifest, {**draft.texts, **graph_files}, progress)
    with progress.stage(f"writing the bundle to {options.output}"):
        files = {**draft.texts, **texts, **graph_files}
        path = write_bundle(options.output, manifest, files, overwrite=options.overwrite)
    return Export(path, Bundle.open_unsigned(path).manifest)


def _embedded_again(
    options: ExportOptions, manifest: Manifest, files: Mapping[str, bytes], progress: Progress
) -> dict[str, bytes]:
    """Return the ready-made names as the bundle's own tower embeds them, whose weights may differ.

    Empty without names or a tower, and for a tower that is stored as it was read.
    """
    if options.weights_dtype.of(TEXT_ENCODER) == "fp32" or manifest.graphs.text_encoder is None:
        return {}
    from samclip.export.baked_names import embed_again  # noqa: PLC0415
    from samclip.export.precision.draft_bundle import DraftBundle  # noqa: PLC0415

    with progress.stage("embedding labels by the bundle's own text encoder"):
        return embed_again(DraftBundle(options.output, manifest, files))


def check_readable(graphs: Sequence[GraphFiles]) -> None:
    """Check that the runtime will read every variant; ExportError for one beyond its bounds."""
    for files in graphs:
        for label, source in files.sources():
            try:
                check_source(source)
            except GraphError as error:
                raise ExportError(
                    f"the runtime would refuse the {label} variant: {error} A smaller "
                    "--image-size, or --attention chunk, keeps tensors small."
                ) from error


def _export_in_fp32(plan: ExportPlan, progress: Progress) -> _Draft:
    """Read the model, export its graphs, store their weights, and prove both steps equal."""
    options = plan.options
    with progress.stage("reading checkpoints"):
        model = read_model(options, progress)
    if options.text_encoder and model.text is not None and is_untrained_clip(model.head):
        progress.note(f"warning: {WAYS_OUT}")
    if options.uint8_input:
        model = with_uint8_input(model)
    models = at_canvases(model, canvases_of(model, options.canvas, options.aspects))
    model = models[0]
    text, texts = bundle_text(model.text, model.templates, plan, progress)
    if model.header:
        texts[CHECKPOINT_FILE] = encode_header(model.header)
    graphs = share_weights_files(write_graphs(model, options, progress, models[1:]))
    pairs = store_graphs(graphs, options.weights_dtype.of)
    written = {name: len(data) for pair in pairs for name, data in pair.stored.files.items()}
    require_place(options, sum(written.values()))
    proof = Proof()
    if options.verify:
        proof = verify(pairs, _take_samples(models, plan, progress), progress)
    manifest = Manifest(
        name=options.output.name,
        model_type=model.model_type,
        preprocessing=model.pixels,
        graphs=described(graphs),
        files={},
        provenance=_provenance(model),
        clip_head=model.head if isinstance(model.head, ClipHead) else None,
        region_head=model.head if isinstance(model.head, RegionHead) else None,
        clip_tower=model.head if isinstance(model.head, ClipTower) else None,
        text=text,
        parity=proof.parity,
        rounding=proof.rounding,
    )
    manifest = with_graphs(manifest, graphs)
    if options.verify and manifest.shaped:
        manifest = _compare_shapes(plan, manifest, pairs, texts, progress)
    stored = [pair.stored for pair in pairs]
    return _Draft(manifest, texts, tuple(map(GraphPair, graphs, stored)))


def _compare_shapes(
    plan: ExportPlan,
    manifest: Manifest,
    pairs: Sequence[GraphPair],
    texts: Mapping[str, bytes],
    progress: Progress,
) -> Manifest:
    """Print how the answers on further shapes agree with the first, and note it in the manifest."""
    from samclip.export.precision.draft_bundle import DraftBundle  # noqa: PLC0415
    from samclip.export.precision.shape_gate import compare_shapes  # noqa: PLC0415

    files = {name: data for pair in pairs for name, data in pair.stored.files.items()}
    stored = with_graphs(manifest, [pair.stored for pair in pairs])
    draft = DraftBundle(plan.options.output, stored, {**texts, **files})
    note = compare_shapes(draft, plan.photos, progress)
    progress.note(note)
    notes = " ".join(part for part in (manifest.provenance.notes, note) if part)
    return replace(manifest, provenance=replace(manifest.provenance, notes=notes))


def write_graphs(
    model: Exportable,
    options: ExportOptions,
    progress: Progress = SILENT,
    others: Sequence[Exportable] = (),
) -> list[GraphFiles]:
    """Export every graph that the bundle will hold; `others` are the model for further shapes."""
    graphs = list(model.graphs)
    if options.text_encoder and model.text is not None and model.text.tower is not None:
        graphs.append(text_encoder_graph(model.text.tower))
    if options.mask_upscaler:
        graphs.append(mask_upscaler_graph(model.pixels.first_canvas))
    for other in others:
        canvas = other.pixels.first_canvas
        graphs += [graph for graph in other.graphs if base_name(graph.name) in SHAPED_GRAPHS]
        if options.mask_upscaler:
            upscaler = mask_upscaler_graph(canvas)
            graphs.append(dataclasses.replace(upscaler, name=shaped_name(upscaler.name, canvas)))
    written = []
    for graph in graphs:
        with progress.stage(f"exporting the {graph.name} graph"):
            written.append(graph.write(options.attention, options.opset))
    return written


def store_graphs(
    graphs: Sequence[GraphFiles], dtype_of: Callable[[str], WeightsDtype]
) -> list[GraphPair]:
    """Return graphs as CPUs run them, in strips, and with their weights as they are stored.

    `dtype_of`: how the weights of a field of `Graphs` are stored. Raises ExportError where one
    cannot be.
    """
    striped = [in_strips(files) for files in graphs]
    stored = [store_weights(files, dtype_of(weights_owner(files.name))) for files in striped]
    return list(map(GraphPair, striped, share_weights_files(stored)))


def finish_graphs(stored: Iterable[GraphFiles]) -> list[GraphFiles]:
    """Return stored graphs as a bundle has them: all shapes on one weights file, no leftovers."""
    shared = share_weights_files([without_unused(files) for files in stored])
    return [files.without_inner_shapes() for files in shared]


def _take_samples(
    models: Sequence[Exportable], plan: ExportPlan, progress: Progress
) -> list[Sample]:
    """Run the torch model on photos, for further shapes on some, and its text tower on texts."""
    model, *others = models
    samples: list[Sample] = []
    for photo in track(progress, plan.photos, "running the torch model on photos"):
        samples += model.samples(photo)
        if plan.options.mask_upscaler:
            samples += mask_upscaler_samples(model.pixels.first_canvas, photo)
    for other in others:
        canvas = other.pixels.first_canvas
        stage = f"running the torch model on {canvas[0]} x {canvas[1]} px"
        for photo in track(progress, plan.photos[:SHAPED_PHOTOS], stage):
            found = other.samples(photo)
            if plan.options.mask_upscaler:
                found += [
                    dataclasses.replace(sample, graph=shaped_name(sample.graph, canvas))
                    for sample in mask_upscaler_samples(canvas, photo)
                ]
            samples += [one for one in found if base_name(one.graph) in SHAPED_GRAPHS]
    return samples if model.text is None else samples + text_samples(model.text)


def _provenance(model: Exportable) -> Provenance:
    untrained = untrained_note(model.head)
    notes = (model.notes, None if untrained and untrained in model.notes else untrained)
    return Provenance(
        sources=model.sources,
        samclip=__version__,
        torch=str(torch.__version__),
        onnx=str(onnx.__version__),
        notes=" ".join(note for note in notes if note),
    )


def _reduce(
    draft: _Draft, plan: ReductionPlan, options: ExportOptions, progress: Progress
) -> _Draft:
    """Add the reduced precisions: every graph with all its variants, and what each costs."""
    # The modules that quantise take a second to import, and most exports do without.
    from samclip.export.precision.draft_bundle import DraftBundle  # noqa: PLC0415
    from samclip.export.precision.reduction import reduce_graphs  # noqa: PLC0415

    originals = [pair.original for pair in draft.graphs]
    files = {name: data for graph in originals for name, data in graph.files.items()}
    bundle = DraftBundle(options.output, draft.manifest, {**draft.texts, **files})

    def store(files: GraphFiles) -> GraphFiles:
        (pair,) = store_graphs([files], options.weights_dtype.of)
        return pair.stored

    reduced = reduce_graphs(bundle, originals, plan, store, progress)
    manifest = replace(draft.manifest, reductions=reduced.reductions)
    pairs = map(GraphPair, originals, reduced.graphs)
    return _Draft(manifest, draft.texts, tuple(pairs))
