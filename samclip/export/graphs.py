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
from samclip.export.graph_files import GraphFiles, pack_graph
from samclip.export.models.attention import Lowering, distinct_lowerings
from samclip.export.options import (
    DEFAULT_OPSET,
    EXPORT_BACKENDS,
    FUSED,
    LOWERINGS_BY_BACKEND,
    backends_for,
)
from samclip.library_errors import is_library_error
from samclip.runtime.bundles.manifest import LibraryNeed, Variant

MIN_OPSET = 18  # the dynamo exporter's floor; LayerNormalization exists from 17 on
MAX_OPSET = 23
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx_ir", "numpy", "sympy", "mpmath")
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
class LoweredGraph:
    """A graph with relative-position attention; `spec` describes it in one lowering."""

    name: str
    spec: Callable[[Lowering], GraphSpec]

    def write(self, lowerings: Sequence[Lowering], opset: int) -> GraphFiles:
        """Export the graph, once per lowering, on one weights file.

        The first lowering's file is `<name>.onnx`, the others' `<name>.<lowering>.onnx`. `fused`
        has at least the opset that it needs; `wide` is left out where it is the same as `chunk`.
        """
        specs = {lowerings[0]: self.spec(lowerings[0])}  # each a copy of the weights
        forms = distinct_lowerings(specs[lowerings[0]].module, lowerings)
        models: dict[Variant, ir.Model] = {}
        for form in forms:
            spec = specs.pop(form) if form in specs else self.spec(form)
            own_opset = max(opset, ATTENTION_OPSET) if form == FUSED else opset
            model = export_graph(spec, own_opset)
            variant = Variant(
                file=f"{self.name}.onnx" if form == forms[0] else f"{self.name}.{form}.onnx",
                weights=f"{self.name}.safetensors",
                attention=form,
                opset=own_opset,
                backends=backends_for(form, forms),
                needs=_needs(model),
            )
            models[variant] = model
        return pack_graph(self.name, models)


@dataclass(frozen=True)
class PlainGraph:
    """A graph without relative-position attention: one variant for all its `backends`.

    It is written in an opset of at most `max_opset`.
    """

    name: str
    spec: Callable[[], GraphSpec]
    max_opset: int = MAX_OPSET
    backends: tuple[str, ...] = tuple(LOWERINGS_BY_BACKEND)

    def write(self, lowerings: Sequence[Lowering], opset: int) -> GraphFiles:
        """Export the graph; lowerings make no difference to it."""
        del lowerings
        own_opset = min(opset, self.max_opset)
        model = export_graph(self.spec(), own_opset)
        variant = Variant(
            file=f"{self.name}.onnx",
            weights=f"{self.name}.safetensors",
            opset=own_opset,
            backends=self.backends,
            needs=_needs(model),
        )
        return pack_graph(self.name, {variant: model})


GraphPlan = LoweredGraph | PlainGraph


def _needs(model: ir.Model) -> tuple[LibraryNeed, ...]:
    """Return the versions of libraries that read the operators of a graph."""
    return ATTENTION_NEEDS if any(node.op_type == "Attention" for node in model.graph) else ()


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
        _raise_if_not_torchs(error)
        raise ExportError(
            f"torch could not export the {spec.name}: {error}. {OTHER_WAYS}"
        ) from error
    if program is None:
        raise ExportError(f"torch exported nothing for the {spec.name}. {OTHER_WAYS}")
    return _clean(program.model, spec.name)


def _raise_if_not_torchs(error: BaseException) -> None:
    """Raise what only passed through torch's exporter: a lack of memory, a caller's time limit."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or not is_library_error(cause, *LIBRARIES):
            raise cause
        cause = cause.__cause__


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
