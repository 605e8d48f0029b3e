"""Arrays of other libraries: torch's on the host, and stand-ins for theirs on a GPU."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from gpu_arrays import ByDlpack, ByInterface, OnGpu
from numpy.typing import NDArray
from tensorrt_bench import Bench
from tiny_bundle import negation_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.dlpack import CUDA, ExchangeError
from samclip.engines.foreign import ForeignTensor, is_foreign, take
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import EngineRunError

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.mark.parametrize("kind", [ByDlpack, ByInterface])
def test_an_engine_reads_it_where_it_lies_once_it_is_written(
    bench: Bench, kind: type[OnGpu]
) -> None:
    engine = bench.start()
    given = kind(bench.gpu, engine._memory.device, X)
    feed = take(given)
    assert isinstance(feed, ForeignTensor)
    assert (feed.shape, feed.dtype, feed.address) == ((2, 4), np.float32, given.address)
    found = engine.run({"x": feed})["y"]  # the write is still waiting on its stream
    again = engine.run({"x": feed})["y"]
    assert set(bench.gpu.copies) == {"on device"}
    np.testing.assert_array_equal(found.numpy(), -X)
    np.testing.assert_array_equal(again.numpy(), -X)
    if isinstance(given, ByDlpack):
        asked = given.asked
        assert asked[0] == -1  # looked at, without an order
        assert len(asked) == 3
        assert all(stream in bench.gpu.streams for stream in asked[1:])  # the run's own
    del feed
    gc.collect()
    given.free()
    engine.close()


@pytest.mark.parametrize(
    ("array", "place", "message"),
    [
        (X.astype(np.float64), {}, r"'x' is float64, expected float32"),
        (X[:, :3], {}, r"shape \(2, 3\)"),
        (X, {"strides": (1, 2)}, "strides, expected one in C order"),
        (X, {"fails": True}, "ByDlpack, cannot be ordered before a run: RuntimeError"),
    ],
)
def test_arrays_that_do_not_fit_are_explained(
    bench: Bench, array: NDArray[Any], place: dict[str, Any], message: str
) -> None:
    engine = bench.start()
    given = ByDlpack(bench.gpu, engine._memory.device, np.ascontiguousarray(array), **place)
    feed: Any = take(given)
    with pytest.raises(EngineRunError, match=message):
        engine.run({"x": feed})
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)  # it still works
    del feed
    gc.collect()
    given.free()
    engine.close()


def test_from_another_gpu_it_comes_over_the_host(bench: Bench) -> None:
    engine = bench.start()
    given = ByDlpack(bench.gpu, engine._memory.device, X, device=(CUDA, 1))
    feed: Any = take(given)
    assert not feed.is_on(0)
    np.testing.assert_array_equal(engine.run({"x": feed})["y"].numpy(), -X)
    assert given.asked == [-1]
    on_cpu = CPU.load(GraphSource("graph", negation_model()), EngineOptions(threads=1))
    np.testing.assert_array_equal(on_cpu.run({"x": feed})["y"].numpy(), -X)
    del feed
    gc.collect()
    given.free()
    engine.close()
    on_cpu.close()


def test_on_the_host_it_is_a_view() -> None:
    given = torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3)
    assert is_foreign(given)
    view = take(given.permute(1, 0, 2))
    assert isinstance(view, np.ndarray)
    assert (view.shape, view.dtype, view.ctypes.data) == ((4, 2, 3), np.uint8, given.data_ptr())
    given += 1
    assert view[0, 0, 0] == 1
    for own in (X, X[0, 0], [1], b"", "a", None, torch.Tensor):
        assert not is_foreign(own)


def test_what_cannot_be_taken_is_explained(bench: Bench) -> None:
    engine = bench.start()
    with pytest.raises(ExchangeError, match=r"a Tensor cannot be taken by DLPack: .*grad"):
        take(torch.zeros(2, requires_grad=True))
    vulkan = ByDlpack(bench.gpu, engine._memory.device, X, device=(7, 0))
    with pytest.raises(ExchangeError, match=r"device of DLPack's type 7 \(0\), expected the host"):
        take(vulkan)
    old = ByInterface(bench.gpu, engine._memory.device, X, shape=None)
    with pytest.raises(ExchangeError, match=r"__cuda_array_interface__ of a ByInterface is not of"):
        take(old)
    for given in (vulkan, old):
        given.free()
    engine.close()
