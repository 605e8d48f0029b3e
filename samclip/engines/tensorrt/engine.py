"""Engines that run TensorRT plans: a pool of execution contexts, one for each caller at a time.

The same class serves TensorRT and TensorRT for RTX. A context holds memory for the activations of
one run, so contexts are created when callers overlap, at most `EngineOptions.contexts` and as many
as the GPU's memory allows: further callers wait for their turn. Ctrl-C may raise between any two
steps of a run: a slot that it leaves half done is freed, not used again, and nobody waits for it.

A plan that was built without weights gets those of its graph, which the bundle has anyway. The plan
names its graph by digest, and `find_plan` has compared it: so these are the weights that the plan
was built with, as TensorRT demands for a stripped plan.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samclip.engines.base import EngineOptions, GraphSource, Guard, GuardedEngine, Tensor
from samclip.engines.cuda.driver import Rows
from samclip.engines.cuda.memory import CudaTensor, DeviceMemory
from samclip.engines.external_data import external_fault
from samclip.engines.foreign import ForeignTensor
from samclip.engines.plans.attention_layers import is_hidden
from samclip.engines.plans.build_log import listening, shared_logger
from samclip.engines.plans.library import Library
from samclip.engines.plans.network import load_in_memory, weights_folder
from samclip.engines.tensorrt.library import LoadedPlan, explain
from samclip.engines.tensorrt.signature import Signature
from samclip.engines.tensorrt.slot import Feeds, TrtSlot
from samclip.errors import DeviceMemoryError, EngineRunError

MAX_CONTEXTS = 4  # by default
LOOK_SECONDS = 0.5  # how often those who wait look for callers who ended without a word

SHOWN = 3  # names of weights in a message


class _Loan:
    """A caller's claim to a slot, or to a slot that it is creating; over when its run ends."""

    def __init__(self) -> None:
        self.slot: TrtSlot | None = None
        self.is_over = False
        self.thread = threading.get_ident()


class TrtEngine(GuardedEngine):
    """A plan, ready to run; owns `loaded` and `memory`.

    `shares_memory`: whether the GPU's memory is the machine's.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        signature: Signature,
        memory: DeviceMemory,
        options: EngineOptions,
        shares_memory: bool = False,
    ) -> None:
        self._loaded = loaded
        self._signature = signature
        outputs = tuple(name for name in signature.outputs if not is_hidden(name))
        self._guard = Guard(signature.graph, tuple(signature.inputs), outputs)
        self._memory = memory
        kernels = loaded.kernels
        self._graphs = options.cuda_graphs and not (kernels is not None and kernels.captures)
        self._limit = options.contexts or (1 if shares_memory else MAX_CONTEXTS)
        # Re-entrant, and taken itself: Ctrl-C in `Condition.__exit__` would leave it locked.
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._loans: list[
            weakref.ref[_Loan]
        ] = []  # each goes with its caller's frame at the latest
        self._closed = False
        self._slots = [self._make()]

    @property
    def contexts(self) -> int:
        """How many execution contexts there are."""
        return len(self._slots)

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
        names = self._guard.check_names(feeds, outputs)
        given = self._on_this_gpu(self._signature.check(feeds))
        if not names:
            return {}
        loan = _Loan()
        try:
            slot = self._take(loan, given)
            with listening() as said:
                try:
                    return dict(slot.run(given, names))
                except EngineRunError as error:
                    if not said.errors:
                        raise
                    raise explain(error, self._signature.graph, said.errors) from error
        finally:
            loan.is_over = True  # no call: Ctrl-C cannot come before it
            with self._lock:
                self._ended.notify_all()

    def keep(self, array: ForeignTensor, columns: int) -> CudaTensor | None:
        """Copy an array HxWxC on this GPU into the left of one with `columns` columns.

        What is right of it is undefined. The copy waits for the array's own work, and is done on
        return. None for an array on another GPU, or one with gaps in its rows. The engine is not
        closed meanwhile. Raises EngineRunError, DeviceMemoryError, ClosedError.
        """
        self._check_open()
        device = self._memory.device
        pitch = array.row_pitch
        if pitch is None or not array.is_on(device.index):
            return None
        height, width, channels = array.shape
        kept = self._memory.tensor((height, columns, channels), array.dtype)
        rows = Rows(height, array.nbytes // height, pitch)
        with device.active(), self._memory.stream() as stream:
            array.make_ready(device, stream)
            try:
                if width == columns and array.is_contiguous:
                    device.on_device(kept.address, array.address, kept.nbytes, stream)
                else:
                    to_pitch = kept.nbytes // height
                    device.copy_rows(kept.address, to_pitch, array.address, rows, stream)
            finally:
                device.synchronize(stream)
        return kept

    def save_kernels(self) -> None:
        """Keep the kernels that were compiled here for later loads; no run is in flight."""
        with self._memory.device.active():
            self._loaded.save_kernels()

    def close(self) -> None:
        """Wait for runs in flight, then free all but the memory of results; again: do nothing.

        In a forked child nothing is freed: it is the parent's.
        """
        if self._is_forked():
            self._closed = True
            return
        me = threading.get_ident()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ended.notify_all()  # callers who wait for their turn are refused
            while any(loan.thread != me for loan in self._under_way()):
                self._ended.wait(LOOK_SECONDS)
            slots, self._slots = self._slots, []
        for slot in slots:
            slot.close()
        slots.clear()  # contexts go before their engine, that before the runtime
        with self._memory.device.active():
            self._loaded.save_kernels()
            self._loaded.close()
        self._memory.close()

    def _check_open(self) -> None:
        self._guard.check_open(None if self._closed else self)

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

    def _take(self, loan: _Loan, feeds: Feeds) -> TrtSlot:
        """Lend a slot, if possible one whose last run had these shapes, for its captured graph."""
        while True:
            with self._lock:
                while not (self._closed or self._idle() or self._places() < self._limit):
                    self._ended.wait(LOOK_SECONDS)
                self._check_open()
                self._discard_unfinished()
                idle = self._idle()
                if idle:
                    fitting = [slot for slot in idle if slot.serves(feeds)]
                    loan.slot = (fitting or idle)[-1]
                self._loans.append(weakref.ref(loan))
                if loan.slot is not None:
                    return loan.slot
            made = self._make_another(loan)
            if made is not None:
                return made

    def _make_another(self, loan: _Loan) -> TrtSlot | None:
        """Create one more slot; None, now and later, when the GPU has no memory for it.

        Raises DeviceMemoryError when there is no other slot to wait for.
        """
        try:
            made = self._make()
        except DeviceMemoryError:
            with self._lock:
                self._loans = [known for known in self._loans if known() is not loan]
                self._ended.notify_all()
                if not self._places():
                    raise
                self._limit = self._places()
                return None
        with self._lock:
            self._slots.append(made)
            loan.slot = made
        return made

    def _under_way(self) -> list[_Loan]:
        """Return the loans that are not over, and drop the others."""
        found = [(known, known()) for known in self._loans]
        self._loans = [known for known, loan in found if loan is not None and not loan.is_over]
        return [loan for _, loan in found if loan is not None and not loan.is_over]

    def _idle(self) -> list[TrtSlot]:
        """Return the slots that are not lent."""
        lent = [loan.slot for loan in self._under_way()]
        return [slot for slot in self._slots if slot not in lent]

    def _places(self) -> int:
        """Count the slots that exist and those being created."""
        return len(self._slots) + sum(loan.slot is None for loan in self._under_way())

    def _discard_unfinished(self) -> None:
        """Free the slots of interrupted runs: their shapes and buffers may not fit each other."""
        for slot in [slot for slot in self._idle() if not slot.is_whole]:
            slot.close()
            self._slots.remove(slot)

    def _make(self) -> TrtSlot:
        with listening() as said, self._memory.device.active():
            context = self._loaded.create_context()
            if context is None:
                error = EngineRunError("TensorRT gives no execution context.")
                raise explain(error, self._signature.graph, said.errors)
            return TrtSlot(context, self._signature, self._memory, self._graphs)


def refit(library: Library, engine: Any, source: GraphSource) -> None:
    """Put the weights of `source` into a stripped engine; a primary context is current.

    Weights are handed over in memory; versions before 10.13 get them in a private folder. Raises
    EngineRunError when the engine cannot be refitted, or lacks weights afterwards.
    """
    _check_external_data(source)
    module, logger = library.module, shared_logger(library.module)
    with listening() as said:
        refitter = module.Refitter(engine, logger)
        parser = module.OnnxParserRefitter(refitter, logger)
        if hasattr(parser, "load_initializer"):
            taken = load_in_memory(parser, source) and parser.refit_model_proto()
        else:
            with weights_folder(source) as path:
                taken = parser.refit_from_bytes(source.onnx, str(path))
        missing = list(refitter.get_missing_weights())
        if taken and not missing and refitter.refit_cuda_engine():
            return
    fault = EngineRunError(
        f"{_fault(bool(taken), missing)}. Build the plan again, with its weights."
    )
    errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
    raise explain(fault, source.name, [*errors, *said.errors])


def _check_external_data(source: GraphSource) -> None:
    """Refuse a graph that would have the parser read a file that nobody verified."""
    try:
        fault = external_fault(source, by_name=True)
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise EngineRunError(
            f"the plan was built without its weights, and the graph {source.name!r} cannot give "
            f"them: {fault}. Export the bundle again."
        )


def _fault(taken: bool, missing: list[str]) -> str:
    if not taken:
        return "the plan was built without its weights, and the graph's do not fit into it"
    if missing:
        names = ", ".join(map(repr, missing[:SHOWN]))
        return f"the plan was built without its weights, and {len(missing)} are missing ({names})"
    return "the plan was built without its weights, and they could not be put into it"
