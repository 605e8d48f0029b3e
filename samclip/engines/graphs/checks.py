"""The checks of a graph: it is refused unless all that it asks for is known and bounded.

A bundle's digests say that its bytes are those that were written, not that they mean well. ONNX
Runtime, OpenVINO and TensorRT parse, optimise and fold what they are given, for as long and in as
much memory as it asks for, and some crash on what they do not expect. So a graph is read here
first, without them: its operators are those that exports write, every name is defined once and
before its use, every size follows from the inputs', and tensors, memory and work keep the bounds
below for the most that the runtime sends in one run.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samclip.engines.graphs.operators import OPERATORS, OPSETS, POINTWISE, Operator
from samclip.engines.graphs.parsed import (
    BOOL,
    DTYPES,
    MAX_PORTS,
    NUMPY,
    SHOWN,
    Dims,
    Node,
    ParsedGraph,
    Port,
    Stored,
    parse_model,
)
from samclip.engines.graphs.signature import GraphSignature, TensorSignature
from samclip.engines.graphs.sizes import DYNAMIC, Dim, most, symbol
from samclip.engines.graphs.tensors import (
    MAX_FOLLOWED,
    WHOLE,
    Call,
    RefusedError,
    Tensor,
    check_dims,
)
from samclip.engines.limits import MAX_REGION
from samclip.engines.steps import ExportBundle
from samclip.errors import GraphError, did_you_mean

# The global layers of ViT-H at 1024 px have scores of 1 GiB in the lowering `bias`, of which three
# are alive at once; all of ViT-H multiplies 3e12 numbers.
MAX_TENSOR_BYTES = 2**31
MAX_LIVE_BYTES = 2**32
MAX_WORK = 2**43
WRITTEN = 32  # products in the time that it takes to write one number
# Of what an engine may compute before it runs and keep: as much as the stored tensors take when
# they are expanded from a byte to four, and all of it again, and something for small graphs.
MAX_COMPUTED = 8192  # sizes that depend on the run, in all lists of a graph
MAX_SCALES = 2**17  # numbers of which the least and the greatest are looked for
MAX_CHAIN = 64  # pointwise operators in a row: exports have up to 16
FOLDED_PER_STORED = 12
FOLDED_BYTES = 2**26

# Graphs that get whatever the encoder's outputs are called, whose sizes are known to the encoder.
FED_BY_ENCODER = frozenset({"roi_classifier", "clip_roi"})

Weights = Mapping[str, NDArray[np.generic]]


def check_graph(name: str, onnx: bytes, weights: Weights | None = None) -> GraphSignature:
    """Return the inputs and outputs of the graph `name`, once all of it is checked.

    `weights` holds the tensors that it keeps in a file. Raises GraphError, which names what is
    refused: a malformed graph, an operator that exports never write, a size that is unknown or
    beyond bounds.
    """
    try:
        with _uncollected():
            return GraphCheck(parse_model(onnx), weights or {}, name).run()
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise refused(name, str(error)) from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold off the garbage collector, which the many small parts of a graph set going.

    None of them is garbage: it would look through all objects of the process, which takes as long
    as the check. It goes on after the block, where no other thread has it held off.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def refused(name: str, reason: str) -> GraphError:
    """Return the error of a graph that no engine may see."""
    return GraphError(
        f"the graph {name!r} is refused before any engine sees it: {reason}. Export the "
        "bundle again with samclip.",
        steps=(ExportBundle(),),
    )


@dataclass
class GraphCheck:
    """One graph, gone through in the order of its nodes."""

    graph: ParsedGraph
    weights: Weights
    name: str = ""

    def __post_init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.work = 0
        self.computed = 0
        self.token_rows: int | None = None
        self.folded = 0

    def run(self) -> GraphSignature:
        """Check everything; raises ValueError."""
        self._check_opsets()
        stored = self._add_stored()
        inputs = self._add_inputs()
        peak = self._add_nodes()
        most_folded = FOLDED_BYTES + FOLDED_PER_STORED * stored
        if self.folded > most_folded:
            raise ValueError(
                f"{self.folded:,} bytes follow from its stored tensors of {stored:,} bytes alone, "
                f"at most {most_folded:,} are accepted"
            )
        self._check_described()
        return GraphSignature(inputs, self._outputs(), peak, self.token_rows)

    def _add_nodes(self) -> int:
        """Add the results of all nodes; returns the most bytes of them that are needed at once."""
        last_uses = self._last_uses()
        live = peak = 0
        for place, node in enumerate(self.graph.nodes):
            live += self._add_node(node)
            peak = max(peak, live)
            if live > MAX_LIVE_BYTES:
                raise _named(
                    node,
                    f"up to here {live:,} bytes are in use, at most {MAX_LIVE_BYTES:,} are "
                    "accepted",
                )
            for name in last_uses.get(place, ()):
                live -= self.tensors[name].bytes
        return peak

    def _check_opsets(self) -> None:
        for domain, version in self.graph.opsets.items():
            if domain:
                raise ValueError(
                    f"it imports operators of {domain[:SHOWN]!r}, which exports never do"
                )
            if version not in OPSETS:
                raise ValueError(
                    f"it is written in opset {version}; {OPSETS[0]} to {OPSETS[-1]} are accepted"
                )
        if "" not in self.graph.opsets:
            raise ValueError("it does not say in which opset it is written")

    def _add_stored(self) -> int:
        """Add the stored tensors; returns their bytes."""
        total = 0
        for tensor in self.graph.stored:
            self._define(tensor.name, _from_stored(tensor, self.weights.get(tensor.name)))
            total += self.tensors[tensor.name].bytes
        return total

    def _add_inputs(self) -> tuple[TensorSignature, ...]:
        found = []
        names = {tensor.name for tensor in self.graph.stored}
        for port in self.graph.inputs:
            if port.name in names:
                raise ValueError(f"its input {port.name[:SHOWN]!r} is also a stored tensor")
            if port.dims is None or any(dim is None for dim in port.dims):
                raise ValueError(f"its input {port.name[:SHOWN]!r} has an axis of unknown size")
            self._check_axes(port)
            dims = tuple(symbol(d) if isinstance(d, str) else d for d in port.dims if d is not None)
            span = (-float(MAX_REGION), float(MAX_REGION)) if port.name == "boxes" else None
            tensor = Tensor(port.dtype, dims, limits=span, fed=True)
            if 0 in dims:
                raise ValueError(f"its input {port.name[:SHOWN]!r} has no elements")
            self._check_bytes(f"its input {port.name[:SHOWN]!r}", tensor)
            self._define(port.name, tensor)
            found.append(_signature(port.name, tensor))
        if len(found) > MAX_PORTS:
            raise ValueError(f"it has {len(found):,} inputs, at most {MAX_PORTS} are accepted")
        return tuple(found)

    def _check_axes(self, port: Port) -> None:
        """Refuse a name in the place of a size, unless the runtime's bounds hold for it."""
        none: tuple[str, ...] | None = () if self.name in FED_BY_ENCODER else None
        allowed = DYNAMIC.get(port.name, none)
        for place, dim in enumerate(port.dims or ()):
            if (
                isinstance(dim, str)
                and allowed is not None
                and allowed[place : place + 1] != (dim,)
            ):
                raise ValueError(
                    f"axis {place} of its input {port.name[:SHOWN]!r} is called {dim[:SHOWN]!r}, "
                    f"expected {(*allowed, 'a number')[min(place, len(allowed))]}"
                )

    def _last_uses(self) -> dict[int, list[str]]:
        """Return, by the place of a node, the results of nodes that nothing reads after it."""
        last: dict[str, int] = {}
        for place, node in enumerate(self.graph.nodes):
            for name in node.outputs:
                last[name] = place
            for name in node.inputs:
                if name in last:
                    last[name] = place
        for port in self.graph.outputs:
            last.pop(port.name, None)
        found: dict[int, list[str]] = {}
        for name, place in last.items():
            if name:
                found.setdefault(place, []).append(name)
        return found

    def _add_node(self, node: Node) -> int:
        """Add the outputs of a node; returns their bytes."""
        try:
            return self._compute(node)
        except ValueError as error:
            raise _named(node, str(error)) from error

    def _compute(self, node: Node) -> int:
        operator = OPERATORS.get(node.operator)
        if operator is None:
            hint = did_you_mean(node.operator, OPERATORS)
            raise RefusedError(
                f"the operator {node.operator[:SHOWN]!r} is none that exports write{hint}"
            )
        if self.graph.opsets[""] < operator.since:
            raise RefusedError(f"the operator is new in opset {operator.since}")
        if unknown := sorted(set(node.attributes) - operator.attributes):
            raise RefusedError(
                f"it has the attribute {unknown[0][:SHOWN]!r}, which exports never write"
            )
        if not operator.least <= len(node.inputs) <= operator.most:
            raise RefusedError(f"it has {len(node.inputs)} inputs")
        if not 1 <= len(node.outputs) <= operator.outputs:
            raise RefusedError(f"it has {len(node.outputs)} outputs")
        inputs = [self._use(name) for name in node.inputs]
        if inputs[0] is None:
            raise RefusedError("its first input is missing")
        call = Call(node, inputs)
        outputs = operator.rule(call)
        if call.token_rows is not None:
            known = call.token_rows if self.token_rows is None else self.token_rows
            self.token_rows = min(known, call.token_rows)
        if len(outputs) != len(node.outputs):
            raise RefusedError(f"it has {len(node.outputs)} outputs, expected {len(outputs)}")
        present = [tensor for tensor in inputs if tensor is not None]
        total, chain = 0, _chain(node, present)
        for name, tensor in zip(node.outputs, outputs, strict=True):
            check_dims(tensor.dims)
            size = self._check_bytes("its result", tensor)
            self._follow(tensor)
            tensor.constant = all(part.constant for part in present)
            tensor.chain = chain
            total += size
            self._define(name, tensor)
        if outputs[0].constant:
            self.folded += total
        call.made = outputs[0].dims
        self._count_work(operator, call)
        return total

    def _count_work(self, operator: Operator, call: Call) -> None:
        work = WRITTEN * most(call.made)
        if operator.work is not None:
            work = max(work, most(operator.work(call)))
        self.work += work
        if self.work > MAX_WORK:
            raise RefusedError(
                f"up to here {self.work:.1e} numbers are multiplied or written, at most "
                f"{MAX_WORK:.1e} are accepted"
            )

    def _follow(self, tensor: Tensor) -> None:
        """Count the sizes that are computed with: each takes this check a while."""
        if tensor.values is not None and len(tensor.values) > MAX_FOLLOWED:
            tensor.values = None
        self.computed += sum(not isinstance(value, int) for value in tensor.values or ())
        if self.computed > MAX_COMPUTED:
            raise RefusedError(
                f"up to here more than {MAX_COMPUTED:,} sizes follow from those of its inputs"
            )

    def _use(self, name: str) -> Tensor | None:
        if not name:
            return None
        if name not in self.tensors:
            raise RefusedError(f"its input {name[:SHOWN]!r} is not made before it")
        return self.tensors[name]

    def _define(self, name: str, tensor: Tensor) -> None:
        if not name:
            raise RefusedError("a tensor has no name")
        if name in self.tensors:
            raise RefusedError(f"the tensor {name[:SHOWN]!r} is there twice")
        self.tensors[name] = tensor

    def _check_bytes(self, what: str, tensor: Tensor) -> int:
        size = tensor.bytes
        if size > MAX_TENSOR_BYTES:
            dims = "x".join(map(str, tensor.dims))
            raise ValueError(
                f"{what} of the shape {dims[:SHOWN]} takes up to {size:,} bytes, at most "
                f"{MAX_TENSOR_BYTES:,} are accepted"
            )
        return size

    def _check_described(self) -> None:
        """Compare what the graph says of its intermediates: engines may believe it."""
        for port in self.graph.values:
            tensor = self.tensors.get(port.name)
            if tensor is not None:
                _compare(port, tensor)

    def _outputs(self) -> tuple[TensorSignature, ...]:
        found = []
        for port in self.graph.outputs:
            tensor = self.tensors.get(port.name)
            if tensor is None:
                raise ValueError(f"its output {port.name[:SHOWN]!r} is never made")
            _compare(port, tensor)
            found.append(_signature(port.name, tensor))
        if len({each.name for each in found}) != len(found) or not found:
            raise ValueError("it has no outputs, or one twice")
        return tuple(found)


def _chain(node: Node, inputs: list[Tensor]) -> int:
    """Return how many pointwise operators in a row end with this node."""
    if node.operator not in POINTWISE:
        return 0
    chain = 1 + max(tensor.chain for tensor in inputs)
    if chain > MAX_CHAIN:
        raise RefusedError(f"it is the last of {chain} operators in a row on single elements")
    return chain


def _from_stored(stored: Stored, in_file: NDArray[np.generic] | None) -> Tensor:
    """Return a stored tensor; of whole numbers, and of few, the values are known."""
    tensor = Tensor(stored.dtype, stored.dims, constant=True, stored=stored)
    numbers = stored.numbers() if stored.data is not None else in_file
    if numbers is None or not numbers.size or stored.dtype not in NUMPY or stored.dtype == BOOL:
        return tensor
    if (numbers.size, numbers.dtype) != (stored.size, np.dtype(NUMPY[stored.dtype])):
        return tensor  # the file has another tensor of this name
    if stored.dtype in WHOLE and stored.size <= MAX_FOLLOWED:
        tensor.values = tuple(numbers.reshape(-1).tolist())
    if stored.dtype in WHOLE or stored.size <= MAX_SCALES:
        tensor.limits = numbers
    return tensor


def _compare(port: Port, tensor: Tensor) -> None:
    if port.dtype not in {0, tensor.dtype} or not _agrees(port.dims, tensor.dims):
        says = "x".join(map(str, port.dims or ()))
        raise ValueError(
            f"it says that {port.name[:SHOWN]!r} is {says[:SHOWN]}, it computes "
            f"{DTYPES[tensor.dtype][0]} {'x'.join(map(str, tensor.dims))[:SHOWN]}"
        )


def _agrees(said: Dims, dims: tuple[Dim, ...]) -> bool:
    if said is None:
        return True
    pairs = zip(said, dims, strict=False)
    return len(said) == len(dims) and all(
        not (isinstance(a, int) and isinstance(b, int)) or a == b for a, b in pairs
    )


def _signature(name: str, tensor: Tensor) -> TensorSignature:
    dims = tuple(dim if isinstance(dim, int) else str(dim) for dim in tensor.dims)
    return TensorSignature(name, DTYPES[tensor.dtype][0], dims)


def _named(node: Node, reason: str) -> ValueError:
    return ValueError(f"its {node.operator[:SHOWN]} {node.name[:SHOWN]!r}: {reason}")
