"""The special features of TensorRT's engines; `test_contract.py` has the common ones.

They run on a stand-in for the GPU that raises where CUDA would be undefined.

ONNX Runtime computes for the stand-in, so results are compared exactly: what is tested here is
that the right bytes are at the right place at the right time.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_tensorrt import MAGIC, STRIPPED
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tensorrt_bench import BOUNDS, NEGATION, Bench, cast_model
from tree import SUPPORT

from samclip.engines.base import EngineOptions, GraphKey, GraphSource, Tensor
from samclip.engines.cuda.memory import CudaTensor
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.match import system_name
from samclip.engines.plans.sidecar import BuildOptions, BuiltFor, identify
from samclip.engines.steps import BuildPlans
from samclip.engines.tensorrt.backend import TENSORRT
from samclip.engines.tensorrt.engine import TrtEngine
from samclip.errors import (
    ClosedError,
    DeviceMemoryError,
    EngineRunError,
    PlanDamagedError,
    PlanForeignError,
    PlanMissingError,
    PlanStaleError,
)

INTERRUPTED = tuple(str(Path("tensorrt", name)) for name in ("engine.py", "slot.py"))
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def add_model() -> bytes:
    """y = a + b, and z = -a, where `a` is Nx4 and `b` is 4."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names]
        for names in ((("a", ["n", 4]), ("b", [4])), (("y", ["n", 4]), ("z", ["n", 4])))
    ]
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Neg", ["a"], ["z"])]
    opsets = [helper.make_opsetid("", 18)]
    graph = helper.make_graph(nodes, "g", *infos)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def test_runs_as_onnxruntime_does(bench: Bench) -> None:
    source = GraphSource("add", add_model())
    bench.module.bounds = {"a": BOUNDS["x"]}
    feeds = {"a": X, "b": np.ones(4, np.float32)}
    ours, theirs = bench.start(source), CPU.load(source, EngineOptions(threads=1))
    try:
        assert ours.input_names == theirs.input_names
        assert ours.output_names == theirs.output_names
        expected = theirs.run(feeds)
        for _ in range(4):  # plain, captured, replayed
            got = ours.run(feeds)
            assert list(got) == list(expected)
            for name, tensor in got.items():
                assert isinstance(tensor, Tensor)
                assert tensor.shape == (2, 4)
                np.testing.assert_array_equal(tensor.numpy(), expected[name].numpy())  # exact
        assert list(ours.run(feeds, ["z"])) == ["z"]
        assert ours.run(feeds, []) == {}
    finally:
        ours.close()
        theirs.close()


def test_outputs_feed_the_next_engine_without_a_host_copy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = bench.start(), bench.load()
    encoded = first.run({"x": X})["y"]
    copies: list[str] = []
    for name in ("to_host", "to_device"):
        monkeypatch.setattr(bench.gpu, name, lambda *_, name=name: copies.append(name))
    decoded = second.run({"x": encoded})["y"]
    assert copies == []
    monkeypatch.undo()
    np.testing.assert_array_equal(decoded.numpy(), X)
    first.close()
    second.close()
    np.testing.assert_array_equal(encoded.numpy(), -X)  # results outlive their engine
    assert bench.gpu.blocks
    del encoded, decoded


def test_bfloat16_outside_is_refused(bench: Bench) -> None:
    with pytest.raises(
        EngineRunError, match=r"'y' of the plan is BF16.*float32 inputs and outputs"
    ):
        bench.start(GraphSource("cast", cast_model(TensorProto.BFLOAT16)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((17, 4), np.float32), r"\(17, 4\).*\(0, 4\) to \(16, 4\)"),
        (X[:, :3], r"shape \(2, 3\)"),
        (X[0], r"shape \(4,\)"),
    ],
)
def test_wrong_shapes_are_explained(bench: Bench, x: NDArray[np.float32], message: str) -> None:
    engine = bench.start()
    with pytest.raises(EngineRunError, match=message):
        engine.run({"x": x})
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    engine.close()


def test_graphs_are_captured_when_shapes_return(bench: Bench) -> None:
    engine, gpu = bench.start(), bench.gpu
    for sizes, captures, launches in (
        ([2], 0, 0),
        ([2], 1, 1),  # the second time in succession
        ([2], 1, 2),
        ([3, 2, 3, 2], 1, 2),  # shapes that alternate cost no capture
        ([2, 2], 2, 4),  # captured again: the old graph went with its shape
        ([9, 9], 3, 5),  # larger buffers, other addresses
    ):
        for size in sizes:
            x = np.full((size, 4), size, np.float32)
            np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), -x)
        assert (gpu.captures, gpu.launches) == (captures, launches)
        assert len(gpu.graphs) <= 1
    engine.close()


def test_graphs_can_be_switched_off(bench: Bench) -> None:
    engine = bench.start(cuda_graphs=False)
    for _ in range(3):
        np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    assert bench.gpu.captures == 0
    engine.close()


def test_a_run_that_cannot_be_captured_goes_without_a_graph(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.gpu.can_capture = False
    engine = bench.start()
    for _ in range(5):
        np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    assert bench.gpu.launches == 0
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "without a CUDA graph" in said[0]
    assert "cuStreamEndCapture" in said[0]
    engine.close()


def test_a_run_that_failed_is_not_captured_next(bench: Bench) -> None:
    """TensorRT wants a run after a change of shapes before it is captured."""
    engine = bench.start()
    bench.module.fail_next_run = True
    with pytest.raises(EngineRunError, match="error 700"):
        engine.run({"x": X})
    for captures in (0, 1, 1):
        np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
        assert bench.gpu.captures == captures
    engine.close()


def test_the_context_of_the_gpu_is_kept_between_models(bench: Bench) -> None:
    """Libraries inside TensorRT keep handles in it that do not survive a reset."""
    for _ in range(20):
        engine = bench.start()
        np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
        engine.close()
        assert bench.gpu.retained == 1


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("contexts", [1, 3])
def test_concurrent_callers(bench: Bench, threads: int, contexts: int) -> None:
    bench.module.seconds = 0.002
    engine = bench.start(contexts=contexts)
    gate = threading.Barrier(threads)

    def call(number: int) -> None:
        gate.wait()
        for turn in range(6):
            x = np.full((1 + (number + turn) % 3, 4), number * 100 + turn, np.float32)
            tensor = engine.run({"x": x})["y"]
            np.testing.assert_array_equal(tensor.numpy(), -x)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(threads)))
    assert 1 <= engine.contexts <= contexts
    engine.close()


@pytest.mark.parametrize(("integrated", "contexts"), [(False, 4), (True, 1)])
def test_memory_of_a_jetson_is_spared(bench: Bench, integrated: bool, contexts: int) -> None:
    """One caller at a time, and no weights on the host, which shares its memory with the GPU."""
    bench.host_gpu = msgspec.structs.replace(bench.host_gpu, integrated=integrated)
    weights = {"w": np.ones(4, np.float32)}
    whole = replace(NEGATION, weights=weights, files={"weights.bin": b"w"})
    bench.store(whole)
    source = replace(whole, again=lambda: whole)
    engine = bench.load(source)
    assert (source.weights, source.files) == ({}, {})
    assert engine._limit == contexts
    engine.close()


def test_memory_does_not_grow(bench: Bench) -> None:
    engine = bench.start()
    for turn in range(20):
        engine.run({"x": X[: 1 + turn % 2]})["y"].numpy()
    blocks, pinned, made = len(bench.gpu.blocks), len(bench.gpu.pinned), bench.gpu.allocations
    for turn in range(200):
        engine.run({"x": X[: 1 + turn % 2]})["y"].numpy()
    assert (len(bench.gpu.blocks), len(bench.gpu.pinned)) == (blocks, pinned)
    assert bench.gpu.allocations == made  # nothing was even allocated again
    engine.close()


def test_out_of_memory_is_an_error_after_which_the_engine_works(bench: Bench) -> None:
    engine = bench.start()
    kept = [engine.run({"x": X})["y"]]
    bench.gpu.memory = bench.gpu.used
    with pytest.raises(DeviceMemoryError, match="too little free memory"):
        kept.append(engine.run({"x": X})["y"])
    kept.clear()
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    engine.close()


def test_kept_memory_is_freed_before_memory_counts_as_short(bench: Bench) -> None:
    bench.module.bounds = {"x": ((0, 4), (2, 4), (10_000, 4))}
    engine = bench.start()
    big = np.ones((10_000, 4), np.float32)
    engine.run({"x": X})
    bench.gpu.memory = bench.gpu.used + 4 * big.nbytes
    np.testing.assert_array_equal(engine.run({"x": big})["y"].numpy(), -big)
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    engine.close()


def test_no_memory_for_the_first_context(bench: Bench) -> None:
    bench.module.activations = bench.gpu.memory + 1
    with pytest.raises(DeviceMemoryError, match=r"TensorRT says.*OutOfMemory"):
        bench.start()


def test_no_memory_for_a_second_context_means_waiting(bench: Bench) -> None:
    bench.module.activations = bench.gpu.memory // 2 + 1
    bench.module.seconds = 0.01
    engine = bench.start(contexts=4)
    with ThreadPoolExecutor(4) as pool:
        for tensor in pool.map(lambda _: engine.run({"x": X})["y"].numpy(), range(8)):
            np.testing.assert_array_equal(tensor, -X)
    assert engine.contexts == 1
    engine.close()


def test_a_failed_run_is_explained_and_the_engine_goes_on(bench: Bench) -> None:
    engine = bench.start()
    bench.module.fail_next_run = True
    with pytest.raises(EngineRunError, match=r"the graph 'graph' failed.*TensorRT says.*error 700"):
        engine.run({"x": X})
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    engine.close()


class Alarm(BaseException):
    """What Ctrl-C is, without pytest's own ideas about it."""


def interrupted(engine: TrtEngine, x: NDArray[np.float32], step: int) -> bool:
    """Run, with an exception before line number `step` of engine and slot; False: it had fewer.

    Lines of `with` count not: Python calls their `__exit__` before it looks for signals.
    """
    left = step

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(INTERRUPTED):
            return None
        code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        left -= event == "line" and not code.startswith("with ")
        if left == 0:
            left = -1
            raise Alarm
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        engine.run({"x": x})
    except Alarm:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(("contexts", "integrated"), [(1, False), (2, False), (2, True)])
def test_an_interrupt_at_any_step_spoils_no_later_run(
    bench: Bench, contexts: int, integrated: bool
) -> None:
    """Also while others run; nobody waits for the interrupted one, closing neither."""
    bench.gpu.integrated = integrated
    engine = bench.start(contexts=contexts)
    shapes, steps = (X[:1], X), 0
    while interrupted(engine, shapes[steps % 2], steps + 1):
        steps += 1
        for x in (*shapes, X):  # other buffers, then a captured graph
            np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), -x)
        assert engine.contexts <= contexts
    assert steps > 40
    # What was just being taken or given is lost: a block or a graph of such a moment.
    for graph in set(bench.gpu.graphs) - {slot._graph for slot in engine._slots}:
        del bench.gpu.graphs[graph]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engine.close).result(timeout=60)
    assert len(bench.gpu.blocks) + len(bench.gpu.pinned) <= steps // 4
    bench.gpu.blocks.clear()
    bench.gpu.pinned.clear()
    bench.gpu.retained = 0


def test_close_waits_for_runs(bench: Bench) -> None:
    bench.module.seconds = 0.05
    engine = bench.start(contexts=2)
    begun = threading.Event()
    compute = engine._memory.device.synchronize

    def waiting(stream: int) -> None:
        begun.set()
        compute(stream)

    engine._memory.device.synchronize = waiting  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(engine.run, {"x": X})
        assert begun.wait(30)
        engine.close()
        np.testing.assert_array_equal(run.result()["y"].numpy(), -X)
    del run
    engine.close()  # again: nothing
    with pytest.raises(ClosedError, match="Load the model again"):
        engine.run({"x": X})


def test_callers_who_wait_are_refused_at_close(bench: Bench) -> None:
    bench.module.seconds = 0.05
    engine = bench.start(contexts=1)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(engine.run, {"x": X}) for _ in range(4)]
        engine.close()
        errors = [run.exception() for run in runs]
    assert all(error is None or isinstance(error, ClosedError) for error in errors)
    del runs


def test_a_forked_child_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bench.start()
    result = engine.run({"x": X})["y"]
    parent = os.getpid()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: parent + 1)
        with pytest.raises(EngineRunError, match="before the process forked"):
            engine.run({"x": X})
        with pytest.raises(EngineRunError, match="forked"):
            result.numpy()
        engine.close()
    assert bench.gpu.blocks  # the child freed nothing of the parent's
    engine._closed = False
    del result
    engine.close()


def test_the_callers_own_context_is_put_back(bench: Bench) -> None:
    engine = bench.start()
    bench.gpu.stack().append("another library's")
    tensor = engine.run({"x": X})["y"]
    tensor.numpy()
    assert bench.gpu.stack() == ["another library's"]
    bench.gpu.stack().clear()
    engine.close()


def test_tensors_of_other_backends_are_taken(bench: Bench) -> None:
    engine, other = bench.start(), CPU.load(NEGATION, EngineOptions(threads=1))
    np.testing.assert_array_equal(engine.run({"x": other.run({"x": X})["y"]})["y"].numpy(), X)
    given = engine.run({"x": X})["y"]
    assert isinstance(given, CudaTensor)
    np.testing.assert_array_equal(other.run({"x": given})["y"].numpy(), X)
    engine.close()
    other.close()


def test_without_a_plan_the_step_that_builds_it_is_named(bench: Bench) -> None:
    with pytest.raises(PlanMissingError, match="Build one on this machine") as caught:
        bench.load()
    (step,) = caught.value.steps
    assert isinstance(step, BuildPlans)
    assert step.origin == "a-bundle"
    assert bench.module.given == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"library_version": "10.4.0"}, PlanForeignError),
        ({"target": BuiltFor(capabilities=("8.7",), system=system_name())}, PlanForeignError),
        ({"target": BuiltFor(capabilities=("8.6",), system="Plan9 mips")}, PlanForeignError),
        (
            {"graph": identify(GraphSource("graph", b"former", origin="a-bundle"))},
            PlanStaleError,
        ),
    ],
)
def test_plans_of_others_never_reach_tensorrt(
    bench: Bench, changes: dict[str, Any], error: type[Exception]
) -> None:
    bench.store(**changes)
    with pytest.raises(error, match="Build it") as caught:
        bench.load()
    assert isinstance(caught.value.steps[0], BuildPlans)
    assert bench.module.given == []


def test_damaged_plans_never_reach_tensorrt(bench: Bench) -> None:
    stored = bench.store()
    data = bytearray(stored.path.read_bytes())
    data[-1] ^= 1
    stored.path.write_bytes(data)
    with pytest.raises(PlanDamagedError, match="Build it again") as caught:
        bench.load()
    assert isinstance(caught.value.steps[0], BuildPlans)
    assert bench.module.given == []


def test_a_plan_that_tensorrt_refuses(bench: Bench) -> None:
    bench.store(plan=b"something else")
    # its sidecar fits: so "auto" takes the next backend, as for any plan that is foreign
    with pytest.raises(PlanForeignError, match=r"refuses the plan.*magicTag"):
        bench.load()


def stripped(bench: Bench, *there: str) -> GraphSource:
    """A stored plan that lacks the weights "a" and "b", and its graph, which has those `there`."""
    bench.module.needs = ("a", "b")
    weights = {name: np.ones(3, np.float32) for name in there}
    files = {"weights.bin": " ".join(there).encode()} if there else {}
    source = replace(NEGATION, weights=weights, files=files)
    options = BuildOptions(strip_weights=True)
    bench.store(source, plan=MAGIC + STRIPPED + source.onnx, options=options)
    return source


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_plan_without_weights_gets_those_of_the_graph(bench: Bench, in_memory: bool) -> None:
    bench.module.in_memory = in_memory
    engine = bench.load(stripped(bench, "a", "b", "of another variant"))
    try:
        np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    finally:
        engine.close()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_plan_that_would_lack_weights_does_not_run(bench: Bench, in_memory: bool) -> None:
    bench.module.in_memory = in_memory
    with pytest.raises(
        EngineRunError, match=r"1 are missing \('b'\).*again, with its weights"
    ) as caught:
        bench.load(stripped(bench, "a"))
    assert caught.value.steps == (BuildPlans(graphs=("graph",)),)


def test_weights_that_do_not_fit_a_plan_are_refused_in_the_parsers_words(bench: Bench) -> None:
    with pytest.raises(EngineRunError, match=r"do not fit into it.*Failed to open file"):
        bench.load(stripped(bench))


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_refitting_uses_what_tensorrt_has(version: str) -> None:
    api = json.loads((SUPPORT / "tensorrt_api" / f"{version}.json").read_text())
    assert {"get_missing_weights", "refit_cuda_engine"} <= set(api["Refitter"])
    parser = set(api["OnnxParserRefitter"])
    newer = {"load_model_proto", "load_initializer", "refit_model_proto"}
    assert {"num_errors", "get_error", "clear_errors", "refit_from_bytes"} <= parser
    assert parser & newer == (set() if version == "10.3.0" else newer)
    assert {"STRIP_PLAN", "REFIT_IDENTICAL"} <= set(api["BuilderFlag"])


def test_host_code_stays_forbidden(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = bench.module.Runtime

    def unsafe(logger: Any) -> Any:
        made = runtime(logger)
        made.engine_host_code_allowed = True
        return made

    monkeypatch.setattr(bench.module, "Runtime", unsafe)
    with pytest.raises(EngineRunError, match="programs inside plans"):
        bench.start()
    assert bench.module.given == []


def test_ready_only_when_every_graph_has_a_plan(bench: Bench) -> None:
    def key(source: GraphSource) -> GraphKey:
        graph = identify(source)
        return GraphKey(graph.name, graph.onnx_sha256, graph.weights_sha256, origin=source.origin)

    other = GraphSource("other", add_model(), origin="a-bundle")
    keys = [key(NEGATION), key(other)]
    nothing = TENSORRT.ready(keys, EngineOptions())
    assert not nothing.available
    assert "no plan was built for graph (fp32), other (fp32)" in nothing.detail
    assert nothing.remedy == "build them on this machine, once"
    assert nothing.steps == (BuildPlans(origin="a-bundle", backend="tensorrt", precision="fp32"),)
    bench.store()
    one = TENSORRT.ready(keys, EngineOptions())
    assert not one.available
    assert "for other (fp32) with" in one.detail
    (step,) = one.steps
    assert isinstance(step, BuildPlans)
    assert step.graphs == ("other",)
    bench.store(other)
    assert TENSORRT.ready(keys, EngineOptions()).available
