"""Inputs and outputs of a TensorRT engine: names, types, and the shapes of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import Tensor, wrong_type
from samclip.engines.cuda.beginning import Beginning
from samclip.engines.cuda.memory import CudaTensor
from samclip.engines.foreign import ForeignTensor
from samclip.engines.steps import BuildPlans, ExportBundle
from samclip.errors import EngineRunError

# TensorRT's names of the types that numpy has too
DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT64": np.dtype(np.int64),
    "INT32": np.dtype(np.int32),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
Shape = tuple[int, ...]
Given = NDArray[np.generic] | CudaTensor | ForeignTensor | Beginning


@dataclass(frozen=True)
class Port:
    """An input or output; -1 is a dynamic axis, `least` and `most` bound an input's shape."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    least: Shape = ()
    most: Shape = ()

    def takes(self, shape: Shape) -> bool:
        """Whether an input of this shape is within the bounds."""
        if len(shape) != len(self.shape):
            return False
        bounds = zip(self.least, shape, self.most, strict=True)
        return all(least <= size <= most for least, size, most in bounds)


@dataclass(frozen=True)
class Signature:
    """The ports of the graph called `graph`, in the engine's order."""

    graph: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def check(self, feeds: Mapping[str, NDArray[np.generic] | Tensor]) -> dict[str, Given]:
        """Return the feeds, one for each input, as arrays and device tensors that fit.

        Raises EngineRunError for those of another type, shape or layout.
        """
        return {name: self._check_feed(port, feeds[name]) for name, port in self.inputs.items()}

    def _check_feed(self, port: Port, feed: NDArray[np.generic] | Tensor) -> Given:
        known = np.ndarray | CudaTensor | ForeignTensor | Beginning
        given = feed if isinstance(feed, known) else feed.numpy()
        if given.dtype != port.dtype:
            raise wrong_type(port.name, given.dtype, port.dtype)
        if not port.takes(tuple(given.shape)):
            raise self._misfit(port, tuple(given.shape))
        if isinstance(given, ForeignTensor) and not given.is_contiguous:
            raise EngineRunError(
                f"the input {port.name!r} of the graph {self.graph!r} is an array on a GPU with "
                "strides, expected one in C order. Pass its contiguous() copy."
            )
        return given

    def _misfit(self, port: Port, shape: Shape) -> EngineRunError:
        came = f"the input {port.name!r} of the graph {self.graph!r} has shape {shape}"
        if port.least == port.most:
            return EngineRunError(
                f"{came}, its plan was built for {port.least}. Give it that shape."
            )
        return EngineRunError(
            f"{came}, its plan was built for {port.least} to {port.most}. Send fewer at once, or "
            "build the plan for other sizes.",
            steps=(BuildPlans(graphs=(self.graph,)),),
        )


def read_signature(module: Any, engine: Any, graph: str) -> Signature:
    """Read the ports of a TensorRT engine; raises EngineRunError for one that is not supported."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs, outputs = {}, {}
    for name in names:
        if engine.get_tensor_mode(name) == module.TensorIOMode.INPUT:
            inputs[name] = _read_port(module, engine, name, is_input=True)
        else:
            outputs[name] = _read_port(module, engine, name, is_input=False)
    return Signature(graph, inputs, outputs)


def _read_port(module: Any, engine: Any, name: str, is_input: bool) -> Port:
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPES:
        raise EngineRunError(
            f"the tensor {name!r} of the plan is {kind}, which numpy does not have; expected one "
            f"of {', '.join(DTYPES)}. Export the graph with float32 inputs and outputs."
        )
    if engine.get_tensor_location(name) != module.TensorLocation.DEVICE:
        raise EngineRunError(
            f"the tensor {name!r} of the plan is a shape, read on the host; expected tensors on "
            "the GPU. Export the bundle again.",
            steps=(ExportBundle(),),
        )
    if engine.get_tensor_format(name) != module.TensorFormat.LINEAR:
        raise EngineRunError(
            f"the tensor {name!r} of the plan has the layout {engine.get_tensor_format_desc(name)},"
            " expected a linear one. Build the plan with samclip.",
            steps=(BuildPlans(),),
        )
    shape = tuple(engine.get_tensor_shape(name))
    least = most = shape
    if is_input and -1 in shape:
        least, _, most = map(tuple, engine.get_tensor_profile_shape(name, 0))
    return Port(name, DTYPES[kind], shape, least, most)
