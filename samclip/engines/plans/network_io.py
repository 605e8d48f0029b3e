"""The inputs and outputs of a network, and the shapes that it is built for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samclip.engines.plans.network import Network
from samclip.engines.plans.sidecar import AxisRange, PlanTensor
from samclip.errors import PlanBuildError

# numpy's names of what TensorRT calls its types
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


def describe_tensors(network: Network, axes: Mapping[str, AxisRange]) -> tuple[PlanTensor, ...]:
    """Describe every input, with the bounds of its shape, and every output.

    Raises PlanBuildError for a dynamic axis that has no range in `axes`.
    """
    inputs = [_describe_input(tensor, axes) for tensor in network.inputs()]
    outputs = [
        PlanTensor(name=t.name, mode="output", dtype=DTYPES[t.dtype.name], shape=tuple(t.shape))
        for t in network.outputs()
    ]
    return (*inputs, *outputs)


def used_axes(network: Network, axes: Mapping[str, AxisRange]) -> dict[str, AxisRange]:
    """Keep the ranges of axes that the network's inputs have."""
    names = {name for tensor in network.inputs() for name in _axis_names(tensor)}
    return {name: axis for name, axis in axes.items() if name in names}


def add_profile(builder: Any, config: Any, tensors: tuple[PlanTensor, ...]) -> None:
    """Tell TensorRT the bounds of dynamic shapes; nothing when all are fixed."""
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


def _axis_names(tensor: Any) -> list[str]:
    shape = tuple(tensor.shape)
    return [tensor.get_dimension_name(i) or "" for i, size in enumerate(shape) if size < 0]
