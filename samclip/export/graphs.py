"""From a torch module to a clean ONNX graph: one function, and what each of the four graphs takes.

Exported with torch's dynamo exporter, which keeps `LayerNormalization` whole; metadata that names
the exporting machine's files is stripped.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from torch import Tensor, nn

from samclip.errors import ExportError

MIN_OPSET = 18  # the dynamo exporter's floor; LayerNormalization exists from 17 on
MAX_OPSET = 23
OTHER_WAYS = "Try another --opset or --attention, or the version of torch in constraints.txt"
DEFAULT_OPSET = 20  # has Gelu as one operator, and JetPack 6's TensorRT 10.3 still reads it


@dataclass(frozen=True)
class GraphSpec:
    """A module to export: example `inputs` by name, `outputs` in order, `dynamic` axes by input."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


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
