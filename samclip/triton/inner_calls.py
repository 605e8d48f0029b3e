"""A backend of samclip whose engines are other models of the same Triton server.

A run of a graph is a request within the server (Triton's Business Logic Scripting): its tensors
pass by memory that both sides share, and the encoder's outputs stay on the GPU where it left them.
Such requests can be made only while Triton executes a model, in the thread that it called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import (
    EngineOptions,
    GraphKey,
    GraphSource,
    Guard,
    GuardedEngine,
    Probe,
    Tensor,
    Traits,
)
from samclip.engines.foreign import take
from samclip.errors import EngineRunError
from samclip.runtime.bundles.manifest import base_name
from samclip.triton.records import InnerGraph
from samclip.triton.served_graph import triton_module

NAME = "triton"
# Graphs whose outputs only other graphs read: they stay on the device.
STAYING = frozenset({"encoder", "token_aggregation"})


class InnerTensor:
    """An output of another model, on its device, for as long as this lives."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._array = np.asarray(tensor.as_numpy()) if tensor.is_cpu() else None
        self._there = take(tensor) if self._array is None else self._array

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions, outermost first."""
        return tuple(self._there.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self._there.dtype

    def numpy(self) -> NDArray[np.generic]:
        """Return the data; EngineRunError for a tensor on a GPU, which other models read there."""
        if self._array is None:
            raise EngineRunError(
                f"the output {self._tensor.name()!r} is on the GPU of the Triton server, and is "
                "read by its models alone. Ask the model that computes it."
            )
        return self._array

    def on_host(self) -> NDArray[np.generic] | None:
        """Return the data without copying it; None when it is on a GPU."""
        return self._array

    def called(self, name: str) -> Any:
        """Return the tensor as the input `name` of another model, without a copy."""
        if self._tensor.name() == name:
            return self._tensor
        if self._array is not None:
            return triton_module().Tensor(name, self._array)
        return triton_module().Tensor.from_dlpack(name, self._tensor.to_dlpack())


class InnerEngine(GuardedEngine):
    """A graph that another model of the server runs."""

    def __init__(self, graph: str, inner: InnerGraph, gpu: int | None) -> None:
        self._guard = Guard(graph, inner.inputs, inner.outputs)
        self._model: str | None = inner.model
        self._gpu = gpu if base_name(graph) in STAYING else None

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Ask the model; raises EngineRunError when it fails, ClosedError after `close()`."""
        module = triton_module()
        model = self._guard.check_open(self._model)
        names = self._guard.check_names(feeds, outputs)
        inputs = [_tensor(module, name, feed) for name, feed in feeds.items()]
        options: dict[str, Any] = {}
        if self._gpu is not None:
            memory = module.TRITONSERVER_MEMORY_GPU
            options["preferred_memory"] = module.PreferredMemory(memory, self._gpu)
        request = module.InferenceRequest(
            model_name=model, requested_output_names=list(names), inputs=inputs, **options
        )
        response = request.exec()
        if response.has_error():
            raise self._guard.failed(response.error().message())
        found = {tensor.name(): tensor for tensor in response.output_tensors()}
        if lacking := [name for name in names if name not in found]:
            raise self._guard.failed(f"the model {model} gave no {', '.join(lacking)}")
        return {name: InnerTensor(found[name]) for name in names}

    def close(self) -> None:
        """Ask the model no more; again: do nothing."""
        self._model = None


@dataclass(frozen=True)
class InnerBackend:
    """The models of a server as a backend: `graphs` by name, outputs on GPU number `gpu` or none.

    It is not one of the registry's: only the front model in a Triton server makes it.
    """

    graphs: Mapping[str, InnerGraph]
    gpu: int | None = None
    name: str = NAME

    @property
    def traits(self) -> Traits:
        """What it runs best, and how."""
        return Traits(on_host=self.gpu is None)

    def probe(self) -> Probe:
        """Return that the models are here: Triton loads the front with them."""
        return Probe(True, f"{len(self.graphs)} models of this Triton server")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:  # noqa: ARG002
        """Return that any graph runs at once."""
        return self.probe()

    def load(self, source: GraphSource, options: EngineOptions) -> InnerEngine:  # noqa: ARG002
        """Return the engine that asks the model of a graph."""
        return InnerEngine(source.name, self.graphs[source.name], self.gpu)


def _tensor(module: Any, name: str, feed: NDArray[np.generic] | Tensor) -> Any:
    if isinstance(feed, InnerTensor):
        return feed.called(name)
    array = feed if isinstance(feed, np.ndarray) else feed.numpy()
    return module.Tensor(name, np.ascontiguousarray(array))
