"""A TensorRT plan, running: execution contexts pooled, one for each caller at a time.

The same class serves TensorRT and TensorRT for RTX. A context holds memory for the activations of
one run, so they are made when callers meet, never more than `EngineOptions.contexts`, nor than the
GPU's memory allows: further callers wait for their turn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import EngineOptions, Tensor
from samclip.engines.cuda.memory import DeviceMemory
from samclip.engines.plans.logs import listening
from samclip.engines.tensorrt.library import LoadedPlan, explain
from samclip.engines.tensorrt.signature import Signature
from samclip.engines.tensorrt.slot import Feeds, TrtSlot
from samclip.errors import ClosedError, DeviceMemoryError, EngineRunError


class TrtEngine:
    """A plan, ready to run; owns `loaded` and `memory`."""

    def __init__(
        self,
        loaded: LoadedPlan,
        signature: Signature,
        memory: DeviceMemory,
        options: EngineOptions,
    ) -> None:
        self._loaded = loaded
        self._signature = signature
        self._memory = memory
        self._graphs = options.cuda_graphs
        self._limit = options.contexts
        self._free: list[TrtSlot] = []
        self._made = 0
        self._state = threading.Condition()
        self._closed = False
        self._free.append(self._make_first())

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs, all of which `run` needs."""
        return tuple(self._signature.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs, in its order."""
        return tuple(self._signature.outputs)

    @property
    def contexts(self) -> int:
        """How many execution contexts there are."""
        return self._made

    def run(
        self,
        feeds: Mapping[str, NDArray[np.generic] | Tensor],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Compute `outputs` (None: all); they stay on the GPU until `numpy()` is called.

        Raises EngineRunError for inputs that do not fit or when TensorRT fails, DeviceMemoryError
        when the GPU's memory is short, ClosedError after `close()`.
        """
        self._check_open()
        names = self.output_names if outputs is None else tuple(outputs)
        given = self._on_this_gpu(self._signature.check(feeds, names))
        if not names:
            return {}
        with self._slot(given) as slot, listening() as said:
            try:
                return dict(slot.run(given, names))
            except EngineRunError as error:
                if not said.errors:
                    raise
                raise explain(error, self._signature.graph, said.errors) from error

    def close(self) -> None:
        """Wait for runs under way, then free all but what results hold; again: do nothing.

        In a forked child nothing is freed: it is the parent's.
        """
        if self._is_forked():
            self._closed = True
            return
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._state.notify_all()  # those who wait for their turn are refused
            self._state.wait_for(lambda: len(self._free) == self._made)
            slots, self._free, self._made = self._free, [], 0
        for slot in slots:
            slot.close()
        slots.clear()  # contexts go before their engine, that before the runtime
        with self._memory.device.active():
            self._loaded.close()
        self._memory.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(
                f"the engine of {self._signature.graph!r} is closed. Load the model again."
            )
        self._memory.check_process()

    def _is_forked(self) -> bool:
        try:
            self._memory.check_process()
        except EngineRunError:
            return True
        return False

    def _on_this_gpu(self, feeds: Feeds) -> Feeds:
        """Bring tensors of other GPUs over the host."""
        index = self._memory.device.index
        return {
            name: feed if isinstance(feed, np.ndarray) or feed.is_on(index) else feed.numpy()
            for name, feed in feeds.items()
        }

    @contextmanager
    def _slot(self, feeds: Feeds) -> Iterator[TrtSlot]:
        """Lend a slot: rather one whose last run had these shapes, for its captured graph."""
        slot = self._take(feeds)
        try:
            yield slot
        finally:
            with self._state:
                self._free.append(slot)
                self._state.notify_all()

    def _take(self, feeds: Feeds) -> TrtSlot:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._free or self._made < self._limit or self._closed)
                self._check_open()
                if self._free:
                    fitting = [slot for slot in self._free if slot.serves(feeds)]
                    slot = (fitting or self._free)[-1]
                    self._free.remove(slot)
                    return slot
                self._made += 1
            made = self._make_another()
            if made is not None:
                return made

    def _make_first(self) -> TrtSlot:
        self._made = 1
        return self._make()

    def _make_another(self) -> TrtSlot | None:
        """Make one more slot; None, and none ever after, when the GPU has no memory for it."""
        try:
            return self._make()
        except DeviceMemoryError:
            with self._state:
                self._made -= 1
                self._limit = self._made
                self._state.notify_all()
                return None
        except BaseException:
            with self._state:
                self._made -= 1
                self._state.notify_all()
            raise

    def _make(self) -> TrtSlot:
        with listening() as said, self._memory.device.active():
            context = self._loaded.engine.create_execution_context()
            if context is None:
                error = EngineRunError("TensorRT gives no execution context.")
                raise explain(error, self._signature.graph, said.errors)
            return TrtSlot(context, self._signature, self._memory, self._graphs)
