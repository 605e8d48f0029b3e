"""From a torch module to the ONNX files of a graph, one variant for each lowering of attention.

Exported with torch's dynamo exporter, which keeps `LayerNormalization` whole; metadata that names
the exporting machine's files is stripped.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from torch import Tensor, nn

from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles, opset_of, pack_graph
from samclip.export.models.attention import Lowering, distinct_lowerings
from samclip.export.options import (
    DEFAULT_OPSET,
    EXPORT_BACKENDS,
    FUSED,
    LOWERINGS_BY_BACKEND,
    backends_for,
)
from samclip.runtime.bundles.manifest import LibraryNeed, Variant

MIN_OPSET = 18  # the dynamo exporter's floor; LayerNormalization exists from 17 on
MAX_OPSET = 23
OTHER_WAYS = "Try another --opset or --attention, or the version of torch in constraints.txt"
# What the operator `Attention` needs.
ATTENTION_OPSET = 23
ATTENTION_NEEDS = tuple(
    LibraryNeed(backend=backend.name, version=backend.traits.fused_attention)
    for backend in EXPORT_BACKENDS
    if backend.traits.fused_attention is not None
)


@dataclass(frozen=True)
class GraphSpec:
    """A module to export: example `inputs` by name, `outputs` in order, `dynamic` axes by input."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphPlan:
    """A graph to be written, in given lowerings of attention and a given opset."""

    name: str
    write: Callable[[Sequence[Lowering], int], GraphFiles]


def lowered(name: str, spec: Callable[[Lowering], GraphSpec]) -> GraphPlan:
    """Plan a graph with relative-position attention; `spec` describes it in one lowering."""

    def write(lowerings: Sequence[Lowering], opset: int) -> GraphFiles:
        return write_graph(name, spec, lowerings, opset)

    return GraphPlan(name, write)


def plain(name: str, spec: Callable[[], GraphSpec], max_opset: int = MAX_OPSET) -> GraphPlan:
    """Plan a graph without relative-position attention, in an opset up to `max_opset`."""

    def write(lowerings: Sequence[Lowering], opset: int) -> GraphFiles:
        del lowerings
        return write_plain_graph(name, spec(), min(opset, max_opset))

    return GraphPlan(name, write)


def write_graph(
    name: str,
    spec: Callable[[Lowering], GraphSpec],
    lowerings: Sequence[Lowering],
    opset: int,
) -> GraphFiles:
    """Export a graph with relative-position attention, once per lowering, on one weights file.

    The first lowering's file is `<name>.onnx`, the others' `<name>.<lowering>.onnx`. `fused` has
    at least the opset that it needs; `wide` is left out where it is the same as `chunk`.
    """
    specs = {lowerings[0]: spec(lowerings[0])}  # each a copy of the weights
    forms = distinct_lowerings(specs[lowerings[0]].module, lowerings)
    models: dict[Variant, ir.Model] = {}
    for form in forms:
        graph = specs.pop(form) if form in specs else spec(form)
        model = export_graph(graph, max(opset, ATTENTION_OPSET) if form == FUSED else opset)
        file = f"{name}.onnx" if form == forms[0] else f"{name}.{form}.onnx"
        models[_variant(name, file, model, form, backends_for(form, forms))] = model
    return pack_graph(name, models)


def write_plain_graph(name: str, spec: GraphSpec, opset: int) -> GraphFiles:
    """Export a graph that has no relative-position attention: one variant for every backend."""
    model = export_graph(spec, opset)
    variant = _variant(name, f"{name}.onnx", model, None, tuple(LOWERINGS_BY_BACKEND))
    return pack_graph(name, {variant: model})


def _variant(
    name: str, file: str, model: ir.Model, form: Lowering | None, backends: tuple[str, ...]
) -> Variant:
    """Describe an exported graph, with the versions of libraries that its operators need."""
    attends = any(node.op_type == "Attention" for node in model.graph)
    return Variant(
        file=file,
        weights=f"{name}.safetensors",
        attention=form,
        opset=opset_of(model),
        backends=backends,
        needs=ATTENTION_NEEDS if attends else (),
    )


def export_graph(spec: GraphSpec, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Export `spec` as ONNX with all weights inside; raises ExportError when torch cannot."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(f"opset {opset} was asked for; {MIN_OPSET} to {MAX_OPSET} are supported")
    dims = {
        name: torch.export.Dim(name) for axes in spec.dynamic.values() for name in axes.values()
    }
    shapes = tuple(
        {axis: dims[name] for axis, name in spec.dynamic.get(key, {}).items()}
        for key in spec.inputs
    )
    try:
        with _quiet():
            program = torch.onnx.export(
                spec.module.eval(),
                tuple(spec.inputs.values()),
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                opset_version=opset,
                dynamic_shapes=shapes if spec.dynamic else None,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"torch could not export the {spec.name}: {error}. {OTHER_WAYS}"
        ) from error
    if program is None:
        raise ExportError(f"torch exported nothing for the {spec.name}. {OTHER_WAYS}")
    return _clean(program.model, spec.name)


def _clean(model: ir.Model, name: str) -> ir.Model:
    """Strip metadata, name the graph, drop what is unused, lift large constants."""
    passes = ir.passes.Sequential(
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=64),
        common_passes.DeduplicateInitializersPass(),
        common_passes.IdentityEliminationPass(),
        common_passes.RemoveUnusedNodesPass(),
        common_passes.ClearMetadataAndDocStringPass(),
    )
    model = passes(model).model
    for holder in (model, model.graph, *_values(model.graph)):
        holder.metadata_props.clear()
    model.graph.name = name
    model.producer_name = "samclip"
    model.producer_version = None
    return model


def _values(graph: ir.Graph) -> Iterator[ir.Value | ir.TensorProtocol]:
    """Every value of a graph, and the tensors of its initializers."""
    yield from graph.inputs
    for value in graph.initializers.values():
        yield value
        if value.const_value is not None:
            yield value.const_value
    for node in graph:
        yield from node.outputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and its notes about itself off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
