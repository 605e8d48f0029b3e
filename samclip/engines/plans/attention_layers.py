"""Attention in a TensorRT network, changed so that no single kernel in half precision computes it.

Either the softmax of each attention becomes an output, which a kernel that computes all of an
attention cannot give. Engines keep such outputs to themselves. Or the products of each attention,
its softmax and all between them compute in FP32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from samclip.engines.steps import ExportBundle
from samclip.errors import PlanBuildError

AttentionKernels = Literal["any", "split", "fp32"]  # how a build computes attention

HIDDEN = "samclip.hidden."  # begins the names of outputs that are none of the graph's
HALVES = frozenset({"HALF", "BF16"})
FLOATS = HALVES | {"FLOAT"}
PRODUCT, SOFTMAX, CAST = "MATRIX_MULTIPLY", "SOFTMAX", "CAST"
# What may stand between a product and the softmax: scale, bias and mask, and changes of form.
BETWEEN = frozenset(
    {CAST, "CONCATENATION", "ELEMENTWISE", "IDENTITY", "SCALE", "SELECT", "SHUFFLE", "SLICE"}
) | {"SQUEEZE", "UNARY", "UNSQUEEZE"}


def is_hidden(output: str) -> bool:
    """Whether an output is not the graph's."""
    return output.startswith(HIDDEN)


def split_attention(network: Any) -> None:
    """Make the result of each softmax of a `Network` an output.

    Raises PlanBuildError for a network without any.
    """
    found = [layer for layer in network.layers() if layer.type.name == SOFTMAX]
    if not found:
        raise PlanBuildError(
            "the network has no softmax layer, so its attention cannot be split. Export the "
            "bundle with attention in parts.",
            steps=(ExportBundle((("attention", "bias"),)),),
        )
    for place, layer in enumerate(found):
        tensor = layer.get_output(0)
        tensor.name = f"{HIDDEN}softmax.{place}"
        network.definition.mark_output(tensor)


def widen_attention(network: Any) -> None:
    """Let each attention of a strongly typed `Network` compute in FP32, the rest as it does.

    From the products that lead to a softmax to the one that follows it, half precision is cast to
    FP32 where it comes in and back where it goes out. Raises PlanBuildError for a network without
    such an attention in half precision: TensorRT for RTX 1.7.1 cannot build the operator
    `Attention` with casts around it.
    """
    graph = _Layers(network)
    inside = graph.attention()
    if not any(dtype in HALVES for place in inside for dtype in graph.input_types(place)):
        raise PlanBuildError(
            "the network has no attention in parts and in half precision, which could be computed "
            "in FP32. Export the bundle with attention in parts.",
            steps=(ExportBundle((("attention", "bias"),)),),
        )
    graph.widen(inside)


class _Layers:
    """The layers of a network by their places, and the tensors between them by their names."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._layers = list(network.layers())
        self._types = {place: layer.type.name for place, layer in enumerate(self._layers)}
        self._maker: dict[str, int] = {}
        self._users: dict[str, list[tuple[int, int]]] = {}  # layers, and the places of their inputs
        self._dtypes: dict[str, str] = {}  # before any change
        for place, layer in enumerate(self._layers):
            for tensor in self._outputs(layer):
                self._maker[tensor.name] = place
                self._dtypes[tensor.name] = tensor.dtype.name
            for number, tensor in self._inputs(layer):
                self._users.setdefault(tensor.name, []).append((place, number))
                self._dtypes.setdefault(tensor.name, tensor.dtype.name)

    @staticmethod
    def _inputs(layer: Any) -> Iterator[tuple[int, Any]]:
        for number in range(layer.num_inputs):
            tensor = layer.get_input(number)
            if tensor is not None:
                yield number, tensor

    @staticmethod
    def _outputs(layer: Any) -> list[Any]:
        return [layer.get_output(number) for number in range(layer.num_outputs)]

    def input_types(self, place: int) -> list[str]:
        """Return the types of a layer's inputs before any change."""
        return [self._dtypes[tensor.name] for _, tensor in self._inputs(self._layers[place])]

    def attention(self) -> set[int]:
        """Return the layers from the products before each softmax to those after it."""
        found: set[int] = set()
        for place, kind in self._types.items():
            if kind == SOFTMAX:
                before = self._reach({place}, self._makers)
                after = self._reach({place}, self._readers)
                if before & self._products and after & self._products:
                    found |= before | after
        return found

    @property
    def _products(self) -> set[int]:
        return {place for place, kind in self._types.items() if kind == PRODUCT}

    def _reach(self, start: set[int], following: Any) -> set[int]:
        """Return the layers between `start` and the nearest products, these included."""
        found, waiting = set(start), list(start)
        while waiting:
            for place in following(waiting.pop()):
                if place in found:
                    continue
                if self._types[place] == PRODUCT:
                    found.add(place)
                elif self._is_between(place):
                    found.add(place)
                    waiting.append(place)
        return found

    def _is_between(self, place: int) -> bool:
        """Whether a layer may belong to an attention; a cast that makes numbers of a mask not."""
        kind = self._types[place]
        return kind in BETWEEN and (kind != CAST or FLOATS.issuperset(self.input_types(place)))

    def _makers(self, place: int) -> list[int]:
        names = [tensor.name for _, tensor in self._inputs(self._layers[place])]
        return [self._maker[name] for name in names if name in self._maker]

    def _readers(self, place: int) -> list[int]:
        names = [tensor.name for tensor in self._outputs(self._layers[place])]
        return [user for name in names for user, _ in self._users.get(name, ())]

    def widen(self, inside: set[int]) -> None:
        """Cast what comes into these layers to FP32, and what leaves them back."""
        wide: dict[str, Any] = {}  # the FP32 form of each tensor, by its name
        for place in sorted(inside):
            layer = self._layers[place]
            for number, tensor in list(self._inputs(layer)):
                if tensor.name not in wide and self._dtypes[tensor.name] in HALVES:
                    wide[tensor.name] = self._cast(tensor, "FLOAT")
                if tensor.name in wide:
                    layer.set_input(number, wide[tensor.name])
            if self._types[place] == CAST and self._dtypes[layer.get_output(0).name] in HALVES:
                # readers inside pass it by; it stays for those outside
                wide[layer.get_output(0).name] = layer.get_input(0)
            else:
                self._narrow(layer, inside, wide)

    def _narrow(self, layer: Any, inside: set[int], wide: dict[str, Any]) -> None:
        """Cast a layer's outputs back to what they were for the readers outside."""
        for tensor in self._outputs(layer):
            name, dtype = tensor.name, self._dtypes[tensor.name]
            if dtype not in HALVES:
                continue
            wide[name] = tensor
            outside = [user for user in self._users.get(name, ()) if user[0] not in inside]
            if tensor.is_network_output:
                self._network.definition.unmark_output(tensor)
                tensor.name = f"{name}.fp32"
                wide[tensor.name] = tensor
                self._dtypes[tensor.name] = "FLOAT"
                narrow = self._cast(tensor, dtype)
                narrow.name = name
                self._network.definition.mark_output(narrow)
            elif outside:
                narrow = self._cast(tensor, dtype)
            for place, number in outside:
                self._layers[place].set_input(number, narrow)

    def _cast(self, tensor: Any, dtype: str) -> Any:
        kinds = self._network.module.DataType
        return self._network.definition.add_cast(tensor, getattr(kinds, dtype)).get_output(0)
