"""Engines on a GPU that shares the host's memory: no copies, and nothing touched while in use.

The stand-in has mapped memory at another address for the GPU than for the host, and raises when the
host writes there between the enqueueing of a run and its end.
"""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tensorrt_bench import CUDA_PACKAGES, FAKE_GPU, Bench, tensorrt_bench

from samclip.engines.base import Tensor
from samclip.engines.tensorrt.engine import TrtEngine
from samclip.errors import EngineRunError

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.gpu.integrated = True
    bench.host_gpu = msgspec.structs.replace(FAKE_GPU, integrated=True)
    return bench


def check(engine: TrtEngine, x: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), -x)


def test_from_array_to_array_nothing_is_copied(bench: Bench) -> None:
    engine = bench.start()
    for value in range(6):
        check(engine, X + value)
    assert bench.gpu.copies == []
    assert (bench.gpu.captures, bench.gpu.launches) == (1, 5)  # the same memory comes again
    for rows in (5, 1, 9, 2, 2, 2):  # other sizes: memory that grows, and other graphs
        check(engine, np.full((rows, 4), rows, np.float32))
    assert bench.gpu.copies == []
    engine.close()


@pytest.mark.parametrize("package", CUDA_PACKAGES)
def test_other_gpus_copy(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with tensorrt_bench(package, monkeypatch, tmp_path) as bench:
        engine = bench.start()
        check(engine, X)
        assert bench.gpu.copies == ["to device", "on device", "to host"]
        assert bench.gpu.mapped == set()
        engine.close()


def test_results_stay_as_they_are_while_others_are_computed(bench: Bench) -> None:
    engine = bench.start()
    kept: list[Tensor] = [engine.run({"x": X + value})["y"] for value in range(5)]
    for value, tensor in enumerate(kept):
        np.testing.assert_array_equal(tensor.numpy(), -(X + value))
    assert bench.gpu.copies == []
    engine.close()
    np.testing.assert_array_equal(kept[0].numpy(), -X)  # results outlive their engine
    kept.clear()


def test_what_engines_read_is_in_the_gpus_own_memory_from_then_on(bench: Bench) -> None:
    first, second = bench.start(), bench.load()
    np.testing.assert_array_equal(second.run({"x": first.run({"x": X})["y"]})["y"].numpy(), X)
    assert bench.gpu.copies == ["on device"]  # out of the mapped memory
    bench.gpu.copies.clear()
    np.testing.assert_array_equal(second.run({"x": first.run({"x": X})["y"]})["y"].numpy(), X)
    assert bench.gpu.copies == ["on device", "on device"]  # out of one engine, into the other
    check(second, X)  # an array after a tensor: another address, and no graph of the former one
    np.testing.assert_array_equal(second.run({"x": first.run({"x": X})["y"]})["y"].numpy(), X)
    first.close()
    second.close()


def test_graphs_are_not_replayed_with_other_addresses(bench: Bench) -> None:
    engine, held = bench.start(), []
    for value in range(8):
        tensor = engine.run({"x": X + value})["y"]
        if value % 3 == 0:
            held.append((value, tensor))
        np.testing.assert_array_equal(tensor.numpy(), -(X + value))
        del tensor
    for value, tensor in held:
        np.testing.assert_array_equal(tensor.numpy(), -(X + value))
    engine.close()
    held.clear()


@pytest.mark.parametrize("contexts", [1, 3])
def test_concurrent_callers(bench: Bench, contexts: int) -> None:
    bench.module.seconds = 0.002
    engine = bench.start(contexts=contexts)

    def call(number: int) -> None:
        for turn in range(6):
            check(engine, np.full((1 + (number + turn) % 3, 4), number * 100 + turn, np.float32))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(call, range(6)))
    assert bench.gpu.copies == []
    engine.close()


def test_memory_does_not_grow(bench: Bench) -> None:
    engine = bench.start()
    for turn in range(20):
        check(engine, X[: 1 + turn % 2])
    before = len(bench.gpu.blocks), len(bench.gpu.pinned)
    for turn in range(100):
        check(engine, X[: 1 + turn % 2])
    assert (len(bench.gpu.blocks), len(bench.gpu.pinned)) == before
    engine.close()
    gc.collect()
    assert bench.gpu.mapped == set()


def test_a_failed_run_leaves_memory_that_can_be_used(bench: Bench) -> None:
    engine = bench.start()
    bench.module.fail_next_run = True
    with pytest.raises(EngineRunError, match="error 700"):
        engine.run({"x": X})
    for value in range(4):
        check(engine, X + value)
    engine.close()


def test_empty_inputs(bench: Bench) -> None:
    engine = bench.start()
    check(engine, X[:0])
    engine.close()
