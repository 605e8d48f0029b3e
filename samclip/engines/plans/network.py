"""Graphs as TensorRT networks: parsed from verified bytes, strongly typed, and described."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import GraphSource
from samclip.engines.external_data import external_fault, unlisted_location
from samclip.engines.plans.attention_layers import is_hidden
from samclip.engines.plans.build_log import Said, clean_line
from samclip.engines.plans.sidecar import AxisRange, PlanTensor
from samclip.engines.steps import ExportBundle
from samclip.errors import PlanBuildError

# The types that must occur in a network of each precision, by TensorRT's names: so that a graph
# that is in fact FP32 is not built under another name.
TYPES_OF = {
    "fp16": frozenset({"HALF"}),
    "bf16": frozenset({"BF16"}),
    "int8": frozenset({"INT8"}),
    "int8_fp16": frozenset({"INT8", "HALF"}),
}
COPY_NUMBER = re.compile(r"_[0-9]+$")
STORAGE = frozenset({"CONSTANT", "CAST"})  # layers that only show how weights are stored
# numpy's names of TensorRT's types
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@contextmanager
def weights_folder(source: GraphSource) -> Iterator[Path]:
    """Write the weights files of a graph into a private folder, which is removed after the block.

    For parsers that cannot take weights from memory. Yields the path that the graph would have
    there. Raises PlanBuildError for weights outside the folder, and when the disk refuses them.
    """
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix="samclip-build-")
            folder = Path(stack.enter_context(made))
            write_files(source, folder)
        except OSError as error:
            raise PlanBuildError(
                f"the weights of the graph {source.name!r} could not be written to a temporary "
                f"folder ({error.filename or 'in TMPDIR'}): {error.strerror}. Make room there, or "
                "set TMPDIR to another folder, and build the plan again."
            ) from error
        yield folder / "graph.onnx"


def write_files(source: GraphSource, folder: Path) -> None:
    """Write the weights files of a graph into a folder; raises PlanBuildError for one outside."""
    for location, data in source.files.items():
        file = folder / location
        if not file.resolve().is_relative_to(folder.resolve()):
            raise PlanBuildError(
                f"the graph {source.name!r} keeps weights at {location!r}, outside of its "
                "folder. Export the bundle again."
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


@dataclass
class Network:
    """A parsed network; `held` is memory that TensorRT reads until the plan is built.

    `expanded`: how many weights it has in another form than the graph, which cannot refit them.
    """

    module: Any
    definition: Any
    held: list[Any] = field(default_factory=list)
    expanded: int = 0

    def layers(self) -> Iterator[Any]:
        """Yield its layers in order."""
        yield from (self.definition.get_layer(i) for i in range(self.definition.num_layers))

    def inputs(self) -> list[Any]:
        """Return its input tensors in order."""
        return [self.definition.get_input(i) for i in range(self.definition.num_inputs)]

    def outputs(self) -> list[Any]:
        """Return its output tensors in order."""
        return [self.definition.get_output(i) for i in range(self.definition.num_outputs)]

    def layer_types(self) -> Counter[str]:
        """Count its layers by TensorRT's name of their type: "CONVOLUTION", "ATTENTION_INPUT"."""
        return Counter(layer.type.name for layer in self.layers())

    def types(self) -> Counter[str]:
        """Count what its layers compute by TensorRT's name of the data type: "HALF".

        Constants and casts are left out: they only show how weights are stored.
        """
        computing = (layer for layer in self.layers() if layer.type.name not in STORAGE)
        outputs = (layer.get_output(i) for layer in computing for i in range(layer.num_outputs))
        return Counter(tensor.dtype.name for tensor in outputs if tensor is not None)


def parse_network(
    module: Any, builder: Any, logger: Any, source: GraphSource, said: Said
) -> Network:
    """Parse a graph into a strongly typed network.

    Weights are handed over in memory; parsers before 10.11 or so cannot take them, and get a
    private folder that is removed at once. Raises PlanBuildError with every error of the parser,
    and before it sees a graph that keeps weights where the bundle does not list them.
    """
    _check_external_data(source)
    # Newer versions always have strong types.
    flags = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = Network(module, builder.create_network(flags), [source.onnx, source.weights])
    parser = module.OnnxParser(network.definition, logger)
    network.held.append(parser)  # weights that the parser converted are its own
    if hasattr(parser, "load_initializer"):
        parsed = _parse_in_memory(parser, source)
    else:
        parsed = _parse_in_folder(parser, source)
    if not parsed:
        raise _parse_error(module, parser, source, said)
    _expand_int8_constants(network, source)
    _decompose_fp32_attention(network)
    _check_precision(network, source)
    return network


def _check_external_data(source: GraphSource) -> None:
    """Refuse a graph that would have the parser read a file that nobody verified."""
    try:
        location = unlisted_location(source.onnx, source.files)
        fault = None if location is not None else external_fault(source, by_name=True)
    except ValueError as error:
        raise PlanBuildError(f"the graph {source.name!r}: {error}. Export it again.") from error
    if location is not None:
        raise PlanBuildError(
            f"the graph {source.name!r} keeps weights at {location[:100]!r}, and comes with the "
            f"files {', '.join(source.files) or 'none'}. Export the bundle again."
        )
    if fault is not None:
        raise PlanBuildError(
            f"the graph {source.name!r} cannot be built: {fault}. Export the bundle again."
        )


def load_in_memory(parser: Any, source: GraphSource) -> bool:
    """Hand a graph and its weights to a parser, or a refitter; False when it cannot read them."""
    if not parser.load_model_proto(source.onnx):
        return False
    for name, weight in source.weights.items():
        # False for a tensor that only other variants of the graph have: they share the file.
        parser.load_initializer(name, weight.ctypes.data, weight.nbytes)
    parser.clear_errors()
    return True


def _parse_in_memory(parser: Any, source: GraphSource) -> bool:
    return load_in_memory(parser, source) and bool(parser.parse_model_proto())


def _parse_in_folder(parser: Any, source: GraphSource) -> bool:
    with weights_folder(source) as path:
        return bool(parser.parse(source.onnx, str(path)))


def _parse_error(module: Any, parser: Any, source: GraphSource, said: Said) -> PlanBuildError:
    errors = [clean_line(_describe(parser.get_error(i))) for i in range(parser.num_errors)]
    lines = "".join(f"\n- {line}" for line in dict.fromkeys(errors or said.errors))
    version = f"{module.__name__} {module.__version__}"
    return PlanBuildError(
        f"{version} cannot take the graph {source.name!r} ({source.precision}); its parser says:"
        f"{lines or ' nothing'}\nExport the bundle again for this backend, with another opset or "
        "form of attention, or choose another backend.",
        steps=(ExportBundle((("opset", None),)), ExportBundle((("attention", None),))),
    )


def _describe(error: Any) -> str:
    """Format one of the parser's errors as a line: node, operator, message and code."""
    node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
    return f"{node}{' '.join(str(error.desc()).split())} [{error.code()}]"


def _expand_int8_constants(network: Network, source: GraphSource) -> None:
    """Replace INT8 constants that a Cast expands by the FP32 ones that come out of it.

    TensorRT takes INT8 constants in front of a DequantizeLinear alone, and weights that are merely
    stored rounded have a Cast there. A table's Gather may stand between the two. The values come
    from `source`: TensorRT's bindings before 10.16 give weights as arrays in which NumPy 2 reads
    the first element everywhere.
    """
    stored = {
        layer.get_output(0).name: layer
        for layer in network.layers()
        if layer.type.name == "CONSTANT" and layer.get_output(0).dtype.name == "INT8"
    }
    expanded: dict[str, Any] = {}
    for layer in list(network.layers()) if stored else ():
        for place in range(layer.num_inputs):
            tensor = layer.get_input(place)
            if tensor is None or tensor.name not in stored or layer.type.name == "DEQUANTIZE":
                continue
            if tensor.name not in expanded:
                expanded[tensor.name] = _as_float(network, source, stored[tensor.name])
            layer.set_input(place, expanded[tensor.name])
    network.expanded = len(expanded)


def _as_float(network: Network, source: GraphSource, layer: Any) -> Any:
    """Add the FP32 form of a constant layer; return its output."""
    shape = tuple(layer.get_output(0).shape)
    values = np.ascontiguousarray(_stored(source, layer.name, shape), np.float32)
    network.held.append(values)
    added = network.definition.add_constant(shape, values)
    added.name = f"{layer.name}_expanded"
    return added.get_output(0)


def _stored(source: GraphSource, name: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return the INT8 weight of a graph that TensorRT's parser made a constant layer of.

    The parser gives the layer the weight's name, with a number at its end for each further layer.
    """
    for key in (name, COPY_NUMBER.sub("", name)):
        values = source.weights.get(key)
        if values is not None and values.dtype == np.int8 and values.shape == shape:
            return values
    raise PlanBuildError(
        f"the graph {source.name!r} has no INT8 weight {name!r} of shape {shape}, which TensorRT's "
        "parser names. Export the bundle with weights stored as FP16.",
        steps=(ExportBundle((("weights_dtype", "fp16"),)),),
    )


def _decompose_fp32_attention(network: Network) -> None:
    """Let FP32 attention be built from several kernels, as no single kernel computes it.

    In FP16 and BF16 it is fused or the build fails: it must not become slow unnoticed.
    """
    for layer in network.layers():
        if layer.type.name == "ATTENTION_INPUT" and layer.get_input(0).dtype.name == "FLOAT":
            layer.__class__ = network.module.IAttentionInputLayer
            layer.attention.decomposable = True


def _check_precision(network: Network, source: GraphSource) -> None:
    """Refuse a network without the types of its precision: it would silently run in FP32."""
    missing = TYPES_OF.get(source.precision, frozenset()) - network.types().keys()
    if missing:
        raise PlanBuildError(
            f"the graph {source.name!r} is said to be {source.precision}, but nothing in it "
            f"computes in {' or '.join(sorted(missing))}: it would run in FP32. "
            "Export the bundle again."
        )


def describe_tensors(network: Network, axes: Mapping[str, AxisRange]) -> tuple[PlanTensor, ...]:
    """Describe every input, with the bounds of its shape, and every output.

    Raises PlanBuildError for a dynamic axis that has no range in `axes`.
    """
    inputs = [_describe_input(tensor, axes) for tensor in network.inputs()]
    outputs = [
        PlanTensor(name=t.name, mode="output", dtype=DTYPES[t.dtype.name], shape=tuple(t.shape))
        for t in network.outputs()
        if not is_hidden(t.name)
    ]
    return (*inputs, *outputs)


def used_axes(network: Network, axes: Mapping[str, AxisRange]) -> dict[str, AxisRange]:
    """Keep the ranges of axes that the network's inputs have."""
    names = {
        tensor.get_dimension_name(place)
        for tensor in network.inputs()
        for place, size in enumerate(tensor.shape)
        if size < 0
    }
    return {name: axis for name, axis in axes.items() if name in names}


def add_profile(builder: Any, config: Any, tensors: tuple[PlanTensor, ...]) -> None:
    """Set the bounds of dynamic shapes; do nothing when all are fixed."""
    dynamic = [tensor for tensor in tensors if tensor.least is not None]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        profile.set_shape(tensor.name, tensor.least, tensor.best, tensor.most)
    if config.add_optimization_profile(profile) < 0:
        bounds = "; ".join(f"{t.name} {t.least} to {t.most}" for t in dynamic)
        raise PlanBuildError(f"TensorRT refuses the shapes {bounds}. Choose other sizes.")


def _describe_input(tensor: Any, axes: Mapping[str, AxisRange]) -> PlanTensor:
    shape = tuple(tensor.shape)
    described = PlanTensor(
        name=tensor.name, mode="input", dtype=DTYPES[tensor.dtype.name], shape=shape
    )
    if -1 not in shape:
        return described
    ranges = [_range(tensor, place, axes) for place in range(len(shape))]
    return PlanTensor(
        name=tensor.name,
        mode="input",
        dtype=described.dtype,
        shape=shape,
        least=tuple(one.least for one in ranges),
        best=tuple(one.best for one in ranges),
        most=tuple(one.most for one in ranges),
    )


def _range(tensor: Any, place: int, axes: Mapping[str, AxisRange]) -> AxisRange:
    size = tensor.shape[place]
    if size >= 0:
        return AxisRange(least=size, best=size, most=size)
    name = tensor.get_dimension_name(place)
    if name not in axes:
        raise PlanBuildError(
            f"the input {tensor.name!r} has a dynamic axis {name!r}, and there is no range of "
            f"sizes for it, only for {', '.join(axes)}. Export the bundle again."
        )
    return axes[name]
