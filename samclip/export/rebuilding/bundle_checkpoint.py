"""A bundle as a checkpoint: its weights under the names that its torch model has for them.

The bundle's architecture is built with weights that say where they are, and exported as the bundle
was. Where the two graphs have the same constant, the bundle's numbers belong to those places
(`coded_weights`). Batch norms were merged into convolutions in the bundle; here they are neutral,
so that the model is of the usual form. What was stored as FP16 or INT8 is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from samclip.errors import BundleNotFoundError, CheckpointError, error_context
from samclip.export.checkpoints.checkpoint import Checkpoint, StateDict
from samclip.export.checkpoints.declared_sizes import build_declared
from samclip.export.checkpoints.metadata import TOKENIZER_KEY, encode_metadata
from samclip.export.exportable import Exportable
from samclip.export.families.merged import merged_exportable
from samclip.export.families.merged_assembly import Assembly, merged_config
from samclip.export.families.ovsam import ovsam_exportable
from samclip.export.families.ovsam_assembly import OvsamAssembly, OvsamMetadata, encode_ovsam
from samclip.export.graphs import GraphPlan, GraphSpec, LoweredGraph, export_graph
from samclip.export.models.merged import MergedModel
from samclip.export.models.norms import ConvNorm, fold_batch_norms
from samclip.export.models.ovsam.model import Ovsam, OvsamConfig
from samclip.export.options import DenseNames
from samclip.export.rebuilding.alignment import align
from samclip.export.rebuilding.architecture import Metadata, read_architecture
from samclip.export.rebuilding.coded_weights import CodedWeights
from samclip.export.rebuilding.stored_graphs import StoredGraph, constant_of, read_graphs
from samclip.export.text_part import text_encoder_graph
from samclip.export.uint8_input import with_uint8_input
from samclip.progress import SILENT, Progress
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.files import read_capped
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest import DIGEST_NAME, MANIFEST_NAME, Manifest
from samclip.runtime.bundles.manifest_file import MAX_DIGEST_BYTES
from samclip.runtime.graph_outputs import NAME_FEATURES
from samclip.runtime.pixels.encoder_input import EncoderInput


@dataclass(frozen=True)
class BundleCheckpoint:
    """A bundle, and its weights as a merged checkpoint or a saved Open-Vocabulary SAM."""

    bundle: Bundle
    checkpoint: Checkpoint


def find_bundle_folder(given: str | PathLike[str]) -> Path | None:
    """Return the folder of a bundle by its name or path; None for anything that is not one."""
    try:
        found = find_bundle(given)
    except BundleNotFoundError:
        return None
    return found if (found / MANIFEST_NAME).is_file() else None


def read_bundle_checkpoint(path: Path, progress: Progress = SILENT) -> BundleCheckpoint:
    """Rebuild the weights of the bundle in the folder `path`; all of its files are verified first.

    Raises BundleError for a bundle that is damaged or cannot be trusted, and CheckpointError for
    one whose graphs are not those of a model that samclip exports.
    """
    bundle = Bundle.open(path)
    if bundle.manifest.clip_tower is not None:
        raise CheckpointError(
            f"{bundle.path} has two towers, which are exported from a SAM and a CLIP. Give their "
            "checkpoints."
        )
    with progress.stage(f"verifying the bundle {bundle.manifest.name}"):
        bundle.verify()
    with error_context(f"the bundle {bundle.path}"):
        graphs = read_graphs(bundle)
        metadata = read_architecture(bundle, graphs)
        state = _rebuild(metadata, graphs, bundle.manifest, progress)
    tokenizer = None if bundle.manifest.text is None else bundle.manifest.text.tokenizer
    if isinstance(metadata, OvsamMetadata):
        header = encode_ovsam(metadata)
    else:
        header = encode_metadata(metadata)
    if tokenizer is not None:
        header[TOKENIZER_KEY] = bundle.read(tokenizer).decode("utf-8")
    digest = read_capped(bundle.path, DIGEST_NAME, MAX_DIGEST_BYTES)[:64].decode("ascii")
    label = f"{bundle.manifest.name}, a bundle, weights stored as {storage_of(bundle)}"
    return BundleCheckpoint(bundle, Checkpoint(bundle.path, digest, state, header, label=label))


def with_input_of(manifest: Manifest, model: Exportable) -> Exportable:
    """Return a model whose encoder takes what that of a bundle takes: floats, or uint8 pixels.

    Raises ManifestError for unknown inputs.
    """
    form = EncoderInput.declared(manifest.graphs.encoder.inputs, manifest.preprocessing)
    return with_uint8_input(model) if form.uint8 else model


def at_first_canvas(manifest: Manifest, model: Exportable) -> Exportable:
    """Return a model for a bundle's first encoder; CheckpointError for one of squares alone."""
    canvas = manifest.preprocessing.first_canvas
    if len({*canvas}) == 1:
        return model
    if model.shapes is None:
        raise CheckpointError(f"a {model.model_type} takes squares, and its input is {canvas} px")
    return model.shapes.at(canvas)


def storage_of(bundle: Bundle) -> str:
    """Return how the weights of each graph are stored: "int8 (encoder), fp16 (mask_decoder)"."""
    graphs: dict[str, list[str]] = {}
    for name in bundle.manifest.graphs.__struct_fields__:
        if (graph := getattr(bundle.manifest.graphs, name)) is not None:
            graphs.setdefault(graph.variants[0].weights_dtype, []).append(name)
    if len(graphs) == 1:
        return next(iter(graphs))
    return ", ".join(f"{dtype} ({', '.join(names)})" for dtype, names in graphs.items())


def _rebuild(
    metadata: Metadata, graphs: Sequence[StoredGraph], manifest: Manifest, progress: Progress
) -> StateDict:
    """Return the state dict of the model of `metadata` that these graphs were exported from."""
    name = manifest.name
    held = {
        f"{graph.name}.{key}": torch.empty(array.shape, device="meta")  # to be counted
        for graph in graphs
        for key, value in graph.model.graph.initializers.items()
        if (array := constant_of(value)) is not None
    }
    whole = _build(metadata, held, name)
    coded = fold_batch_norms(whole)
    codes = CodedWeights(coded)
    plans = {plan.name: plan for plan in _plans(metadata, coded, manifest)}
    for graph in graphs:
        plan = plans.get(graph.name)
        if plan is None:
            raise CheckpointError(f"a {metadata.model_type} has no graph {graph.name}")
        with (
            progress.stage(f"taking the weights of the {graph.name} from {name}"),
            error_context(f"its {graph.name} is not that of a {metadata.model_type}"),
        ):
            spec = _spec(plan, graph)
            template = export_graph(spec, graph.variant.opset)
            codes.expect(template.graph, spec.module)
            for pair in align(template.graph, graph.model.graph, codes.is_weight):
                codes.take(pair)
    return _with_batch_norms(whole, codes.state())


def _build(metadata: Metadata, held: StateDict, name: str) -> MergedModel | Ovsam:
    """Build the model with random weights, if the bundle holds about as many."""
    tower = None if metadata.text is None else metadata.text.tower
    layers = [] if tower is None else [tower.layers]
    if isinstance(metadata, OvsamMetadata):
        backbone = metadata.backbone or metadata.convnext
        if tower is None or backbone is None:
            raise CheckpointError(
                "it has no text encoder, which an Open-Vocabulary SAM is read with; export the "
                "checkpoint that it comes from"
            )
        config = OvsamConfig(
            backbone, tower, metadata.neck, metadata.image_size, metadata.fpn_channels
        )
        layers += [*backbone.depths, metadata.neck.depth]
        return build_declared(lambda: Ovsam(config, with_text=True), held, layers, name)
    merged = merged_config(metadata, tower)
    return build_declared(lambda: MergedModel(merged), held, layers, name)


def _plans(
    metadata: Metadata, model: MergedModel | Ovsam, manifest: Manifest
) -> tuple[GraphPlan, ...]:
    if isinstance(metadata, OvsamMetadata) and isinstance(model, Ovsam):
        exportable = ovsam_exportable(OvsamAssembly(model, metadata, b""))
    elif isinstance(model, MergedModel) and not isinstance(metadata, OvsamMetadata):
        outputs = {spec.name for spec in manifest.graphs.encoder.outputs}
        dense = DenseNames(recursive_attention=NAME_FEATURES in outputs)
        exportable = merged_exportable(Assembly(model, metadata), dense)
    else:
        raise CheckpointError("its model and its description differ: a defect, report it")
    exportable = at_first_canvas(manifest, exportable)
    plans = with_input_of(manifest, exportable).graphs
    tower = model.naming_tower if isinstance(model, MergedModel) else model.text
    return plans if tower is None else (*plans, text_encoder_graph(tower))


def _spec(plan: GraphPlan, graph: StoredGraph) -> GraphSpec:
    if not isinstance(plan, LoweredGraph):
        return plan.spec()
    if graph.variant.attention is None:
        raise CheckpointError("the manifest does not say in which lowering it is")
    return plan.spec(graph.variant.attention)


def _with_batch_norms(model: nn.Module, folded: StateDict) -> StateDict:
    """Return the state of `model` that computes what the state of its folded form does.

    The batch norms scale by 1 / sqrt(var + eps) with var = 1 - eps, which is 1 but for half a unit
    in the last place of `var`: merged into the convolution again, the weights are what they were.
    """
    state = dict(folded)
    for name, module in model.named_modules():
        if isinstance(module, ConvNorm) and isinstance(module.bn, nn.BatchNorm2d):
            channels = module.bn.num_features
            state[f"{name}.bn.bias"] = state.pop(f"{name}.c.bias")
            state[f"{name}.bn.weight"] = torch.ones(channels)
            state[f"{name}.bn.running_mean"] = torch.zeros(channels)
            state[f"{name}.bn.running_var"] = torch.full((channels,), 1 - module.bn.eps)
            state[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    return state
