"""Graphs in processes: the same answers, and an end at the limit whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import WEIGHTS_FILE, affine_model, write_tiny_bundle

import samclip
from samclip.engines.base import Backend, EngineOptions, GraphSource
from samclip.engines.isolated.backend import IsolatedBackend, IsolatedEngine
from samclip.engines.onnxruntime.backend import CPU, CUDA
from samclip.engines.openvino.backend import OPENVINO
from samclip.errors import (
    BackendUnavailableError,
    ClosedError,
    EngineRunError,
    EngineTimeoutError,
    InputError,
)
from samclip.runtime.bundles.weights import parse_weights

PATIENT = 120.0  # seconds: a busy machine takes some to start Python
SHORT = 1.0
ONE_THREAD = EngineOptions(threads=1)
X = np.random.default_rng(0).standard_normal((5, 4), np.float32)
FOREVER = np.asarray(2**62)


def affine() -> GraphSource:
    onnx, data = affine_model()
    return GraphSource("affine", onnx, parse_weights(data), {WEIGHTS_FILE: data})


def counting() -> GraphSource:
    """y = n by a loop of n rounds, which the gate would refuse."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "one"], ["w"])],
        "body",
        [value("i", 7, []), value("c", TensorProto.BOOL, []), value("v", 7, [])],
        [value("d", TensorProto.BOOL, []), value("w", 7, [])],
    )
    tensors = [
        numpy_helper.from_array(np.asarray(number), name)
        for name, number in (("yes", True), ("zero", 0), ("one", 1))
    ]
    node = helper.make_node("Loop", ["n", "yes", "zero"], ["y"], body=body)
    graph = helper.make_graph([node], "loop", [value("n", 7, [])], [value("y", 7, [])], tensors)
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return GraphSource("loop", model.SerializeToString())


def process_of(engine: IsolatedEngine) -> subprocess.Popen[bytes]:
    worker = engine._worker
    assert worker is not None
    return worker._process


@contextmanager
def loaded(source: GraphSource, inner: Backend = CPU) -> Iterator[IsolatedEngine]:
    engine = IsolatedBackend(inner, PATIENT).load(source, ONE_THREAD)
    try:
        yield engine
    finally:
        engine.close()


def hurry(engine: IsolatedEngine) -> None:
    """Give the next run of this process less time than it needs."""
    assert engine._worker is not None
    engine._worker._timeout = SHORT


@pytest.mark.parametrize("inner", [CPU, OPENVINO], ids=lambda backend: backend.name)
def test_the_same_answers_bit_for_bit(inner: Backend) -> None:
    here = inner.load(affine(), ONE_THREAD)
    with loaded(affine(), inner) as engine:
        assert (engine.input_names, engine.output_names) == (here.input_names, here.output_names)
        for x in (X, X[:0], X[::2], np.asfortranarray(X)):
            apart, expected = engine.run({"x": x}), here.run({"x": x})
            for name in ("y", "z"):
                np.testing.assert_array_equal(apart[name].numpy(), expected[name].numpy())
        assert engine.run({"x": X}, ["z"]).keys() == {"z"}
        again = engine.run({"x": engine.run({"x": X})["y"].numpy()[:, :1] * np.ones((1, 4), "f4")})
        assert again["y"].shape == (5, 3)
        with pytest.raises(EngineRunError, match="float32"):
            engine.run({"x": X.astype(np.float64)})
        with pytest.raises(EngineRunError, match="inputs"):
            engine.run({"other": X})
    here.close()
    with pytest.raises(ClosedError):
        engine.run({"x": X})


def test_an_endless_run_is_ended_and_the_next_call_starts_again() -> None:
    with loaded(counting()) as engine:
        first = process_of(engine)
        assert engine.run({"n": np.asarray(3)})["y"].numpy() == 3
        hurry(engine)
        began = time.monotonic()
        with pytest.raises(EngineTimeoutError, match="longer than 1 s to run") as caught:
            engine.run({"n": FOREVER})
        assert time.monotonic() - began < SHORT + 30  # the run itself would take hours
        assert isinstance(caught.value, TimeoutError)
        assert first.returncode == -signal.SIGKILL  # and nothing of it is left
        assert engine.run({"n": np.asarray(4)})["y"].numpy() == 4
        second = process_of(engine)
    assert second.returncode is not None


def test_an_endless_load_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(EngineTimeoutError, match="to be loaded"):
        IsolatedBackend(CPU, 0.05).load(counting(), ONE_THREAD)
    assert time.monotonic() - began < 30  # a busy machine starts processes slowly


def test_a_crash_is_an_error_and_the_next_call_starts_again() -> None:
    with loaded(counting()) as engine:
        process = process_of(engine)
        killer = threading.Timer(0.5, process.send_signal, [signal.SIGSEGV])
        killer.start()
        with pytest.raises(EngineRunError, match=r"'loop' ended by signal 11"):
            engine.run({"n": FOREVER})
        killer.join()
        assert engine.run({"n": np.asarray(5)})["y"].numpy() == 5


def test_ctrl_c_ends_the_run_and_the_process() -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with loaded(counting()) as engine:
        process = process_of(engine)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                engine.run({"n": FOREVER})
        finally:
            signal.signal(signal.SIGALRM, before)
        assert process.returncode == -signal.SIGKILL
        assert engine.run({"n": np.asarray(6)})["y"].numpy() == 6


def test_many_threads_share_a_process() -> None:
    with loaded(affine()) as engine:
        results: list[np.ndarray] = []
        threads = [
            threading.Thread(
                target=lambda: results.append(np.asarray(engine.run({"x": X})["y"].numpy()))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 8
        assert all(np.array_equal(result, results[0]) for result in results)


LEFT_ALONE = """
import sys, numpy as np
sys.path[:0] = sys.argv[1:]
from test_backend import FOREVER, counting, hurry, loaded, process_of
with loaded(counting()) as engine:
    hurry(engine)
    print(process_of(engine).pid, flush=True)
    engine.run({"n": FOREVER})
"""


def test_a_process_whose_parent_is_killed_ends_by_itself() -> None:
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]
    parent = subprocess.Popen(
        [sys.executable, "-c", LEFT_ALONE, *folders], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    time.sleep(0.3)  # the run has begun
    parent.kill()
    parent.wait()
    ends = time.monotonic() + 20
    while is_there(pid) and time.monotonic() < ends:
        time.sleep(0.1)
    assert not is_there(pid)


def is_there(pid: int) -> bool:
    """Whether a process runs; one that is dead may stay listed, as nobody waits for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_fork_leaves_the_process_to_its_parent() -> None:
    with loaded(affine()) as engine:
        child = os.fork()
        if not child:
            try:
                engine.run({"x": X})
            except EngineRunError:
                engine.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert engine.run({"x": X})["y"].shape == (5, 3)


def test_backends_on_gpus_are_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="cannot be given a timeout"):
        IsolatedBackend(CUDA, 1.0)


def test_load_with_a_timeout(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny")
    with samclip.load(path, "onnxruntime", timeout=PATIENT) as model:
        assert model.backend == "onnxruntime"
        engine, _ = model._pool._engines["encoder"]
        assert isinstance(engine, IsolatedEngine)
        process = process_of(engine)
    assert process.returncode is not None
    with pytest.raises(EngineTimeoutError, match=r"0\.05 s"):
        samclip.load(path, "onnxruntime", timeout=0.05)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", True, [1]])
def test_what_is_no_number_of_seconds(timeout: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timeout must be"):
        samclip.load(write_tiny_bundle(tmp_path / "tiny"), timeout=timeout)  # type: ignore[arg-type]
