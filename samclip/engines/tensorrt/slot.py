"""One execution context of a TensorRT engine, with its stream and buffers, for one caller.

Inputs are copied into buffers of the slot and outputs out of them, within the GPU where they are
there already, so that addresses stay the same and a captured CUDA graph stays valid. A graph is
part of the context's state: it is dropped before any shape or address changes. It is captured when
the same shapes come again after a run of them that succeeded: TensorRT wants one run after a change
before it is captured, and shapes that change every time cost no capture.

Where the GPU's memory is the host's, as on a Jetson, nothing is copied between the two. An array is
written once, into pinned memory that TensorRT reads as its input. An output is written where the
host reads it, unless engines have read it before: the GPU reads pinned memory without its cache.
Such an output has another address while a former one is still in use, and a run without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from samclip.engines.cuda.beginning import Beginning
from samclip.engines.cuda.memory import (
    CudaTensor,
    DeviceBlock,
    DeviceMemory,
    PinnedBlock,
    freeing,
    size_of,
)
from samclip.engines.process_edges import keep_in_children
from samclip.engines.steps import BuildPlans, ExportBundle
from samclip.engines.tensorrt.signature import Given, Shape, Signature
from samclip.errors import EngineRunError

MAX_CAPTURE_FAILURES = 2  # then the graph runs without capture
_logger = logging.getLogger("samclip")

Feeds = Mapping[str, Given]
Shapes = dict[str, Shape]


class TrtSlot:
    """`context` is TensorRT's execution context; `graphs`: whether CUDA graphs are captured."""

    def __init__(
        self, context: Any, signature: Signature, memory: DeviceMemory, graphs: bool
    ) -> None:
        self._context = context
        self._signature = signature
        self._memory = memory
        self._device = memory.device
        self._maps = self._device.is_integrated
        self._bound: dict[str, int] = {}  # the address of each tensor
        self._buffers: dict[str, DeviceBlock] = {}
        self._staging: dict[str, PinnedBlock] = {}
        self._shapes: Shapes = {}
        self._has_run = False  # with these shapes and addresses, and without a failure
        self._graph: int | None = None
        self._failures_left = MAX_CAPTURE_FAILURES if graphs else 0
        self._whole = True
        with self._device.active():
            self._streams = [memory.take_stream()]  # none once closed
        keep_in_children(self)

    @property
    def is_whole(self) -> bool:
        """Whether no run is in flight, and none was interrupted: else only `close` may follow."""
        return self._whole

    @property
    def _stream(self) -> int:
        return self._streams[0]

    @property
    def has_graph(self) -> bool:
        """Whether the next run of the same shapes launches a captured graph."""
        return self._graph is not None

    def serves(self, feeds: Feeds) -> bool:
        """Whether the last run had the shapes of these feeds."""
        return self._shapes == _shapes(feeds)

    def run(self, feeds: Feeds, outputs: Sequence[str]) -> dict[str, CudaTensor]:
        """Compute `outputs` of feeds that fit the signature, and wait until they are done.

        Raises EngineRunError; the slot may then be used again.
        """
        self._whole = False
        try:
            results = self._run(feeds, outputs)
        except EngineRunError:
            self._whole = True
            raise
        self._whole = True
        return results

    def close(self) -> None:
        """Free the context and its buffers; no run may be in flight. Again: free what is left."""
        with self._device.active():
            self._drop_graph()
            self._context = None
            while self._streams:
                self._give_stream(self._streams.pop())
        while self._buffers:
            self._memory.blocks.give(self._buffers.popitem()[1])
        while self._staging:
            self._memory.pinned.give(self._staging.popitem()[1])

    def _give_stream(self, stream: int) -> None:
        if self._whole:
            self._memory.give_stream(stream)
            return
        with freeing("the stream of an interrupted run"):  # which may be capturing still
            self._device.synchronize(stream)
        with freeing("the stream of an interrupted run"):
            self._device.destroy_stream(stream)

    def _run(self, feeds: Feeds, outputs: Sequence[str]) -> dict[str, CudaTensor]:
        with self._device.active():
            shapes = self._set_shapes(_shapes(feeds))
            results = self._make_results(outputs, shapes)  # memory first: then nothing is running
            self._place(feeds, shapes, results)
            may_capture, self._has_run = self._has_run, False
            try:
                self._copy_in(feeds)
                self._execute(may_capture)
                self._copy_out(results)
            finally:  # also after a failure: buffers must not be reused while copies are under way
                self._device.synchronize(self._stream)
            self._has_run = True
        return results

    def _set_shapes(self, shapes: Shapes) -> Shapes:
        """Set the inputs' shapes; return those of the outputs."""
        if self._shapes != shapes:
            self._drop_graph()
            self._has_run = False
            self._shapes = {}  # until all are set
            for name, shape in shapes.items():
                self._check(self._context.set_input_shape(name, shape), f"the shape of {name!r}")
            self._shapes = shapes
        found = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
        unknown = [name for name, shape in found.items() if min(shape, default=0) < 0]
        if unknown:
            raise EngineRunError(
                f"the graph {self._signature.graph!r} gives {', '.join(unknown)} a shape that "
                "depends on its data, expected one that follows from the inputs' shapes. Export "
                "the bundle again.",
                steps=(ExportBundle(),),
            )
        return found

    @property
    def _outputs(self) -> Mapping[str, Any]:
        return self._signature.outputs

    def _place(self, feeds: Feeds, shapes: Shapes, results: Mapping[str, CudaTensor]) -> None:
        """Set the address of every input and output, to memory that is large enough."""
        for name, feed in feeds.items():
            if isinstance(feed, np.ndarray):
                self._stage(name, feed.nbytes)
            if isinstance(feed, np.ndarray) and self._maps:
                self._bind(name, self._device.host_address(self._staging[name].memory))
            else:
                self._bind(name, self._need(name, feed.nbytes))
        for name, shape in shapes.items():
            if name in results and results[name].mapped is not None:
                self._bind(name, results[name].address)
            else:
                self._bind(name, self._need(name, size_of(shape, self._outputs[name].dtype)))

    def _need(self, name: str, size: int) -> int:
        """Return the address of a buffer of at least this size."""
        block = self._buffers.get(name)
        if block is None or block.size < size:
            if block is not None:
                self._drop_graph()  # it has the old address
                del self._buffers[name]
                self._memory.blocks.give(block)
            self._buffers[name] = block = self._memory.blocks.take(size)
        return block.memory

    def _bind(self, name: str, address: int) -> None:
        if self._bound.get(name) == address:
            return
        self._drop_graph()
        self._has_run = False
        self._bound.pop(name, None)
        self._check(self._context.set_tensor_address(name, address), f"the address of {name!r}")
        self._bound[name] = address

    def _stage(self, name: str, size: int) -> None:
        pinned = self._staging.get(name)
        if pinned is None or pinned.size < size:
            if pinned is not None:
                del self._staging[name]
                self._memory.pinned.give(pinned)
            self._staging[name] = self._memory.pinned.take(size)

    def _make_results(self, outputs: Sequence[str], shapes: Shapes) -> dict[str, CudaTensor]:
        results = {}
        for name in outputs:
            shape, dtype = shapes[name], self._outputs[name].dtype
            if self._maps and name not in self._memory.gpu_reads:
                results[name] = self._memory.mapped_tensor(shape, dtype, name)
            else:
                results[name] = self._memory.tensor(shape, dtype)
        return results

    def _copy_in(self, feeds: Feeds) -> None:
        for name, feed in feeds.items():
            if not feed.nbytes:
                continue
            if isinstance(feed, np.ndarray):
                staged = self._staging[name].memory[: feed.nbytes]
                staged.view(feed.dtype).reshape(feed.shape)[...] = feed
                if not self._maps:
                    self._device.to_device(self._buffers[name].memory, staged, self._stream)
                continue
            feed.make_ready(self._device, self._stream)
            target = self._buffers[name].memory
            size = feed.known_bytes if isinstance(feed, Beginning) else feed.nbytes
            self._device.on_device(target, feed.address, size, self._stream)

    def _copy_out(self, results: Mapping[str, CudaTensor]) -> None:
        for name, tensor in results.items():
            if tensor.nbytes and tensor.mapped is None:
                source = self._buffers[name].memory
                self._device.on_device(tensor.address, source, tensor.nbytes, self._stream)

    def _execute(self, may_capture: bool) -> None:
        """Launch the graph, capture one first if it is time to, or run without."""
        if self._graph is None and may_capture and self._failures_left:
            self._capture()
        if self._graph is None:
            self._check(self._context.execute_async_v3(self._stream), "a run")
        else:
            self._device.launch(self._graph, self._stream)

    def _capture(self) -> None:
        try:
            self._check_capturable()
            self._device.begin_capture(self._stream)
            try:
                self._check(self._context.execute_async_v3(self._stream), "a captured run")
            finally:
                self._graph = self._device.end_capture(self._stream)
        except EngineRunError as error:  # layers that wait for the host; the run shows the rest
            self._drop_graph()
            self._failures_left -= 1
            if not self._failures_left:
                _logger.warning(
                    "the graph %r runs without a CUDA graph, which is slower: %s",
                    self._signature.graph,
                    str(error),  # the error itself would keep this run's results alive
                )

    def _check_capturable(self) -> None:
        """Ask a library that can tell, as TensorRT for RTX can."""
        ask = getattr(self._context, "is_stream_capturable", None)
        if ask is not None and not ask(self._stream):
            raise EngineRunError("its execution context says that its stream cannot be captured.")

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._device.destroy_graph(graph)

    def _check(self, is_done: bool, what: str) -> None:
        if not is_done:
            raise EngineRunError(
                f"TensorRT refuses {what} of the graph {self._signature.graph!r}. Check the shapes "
                "of its inputs, or build the plan again.",
                steps=(BuildPlans(graphs=(self._signature.graph,)),),
            )


def _shapes(feeds: Feeds) -> Shapes:
    return {name: tuple(feed.shape) for name, feed in feeds.items()}
