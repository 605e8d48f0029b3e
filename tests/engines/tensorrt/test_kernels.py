"""Kernels that TensorRT for RTX compiles: before they run, once, in graphs of its own, and kept."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_tensorrt import FakeEngine, FakeRtx, FakeRuntimeCache, FakeRuntimeConfig, RtxContext
from recorded_tensorrt import RTX, recorded_api
from tensorrt_bench import BOUNDS, FAKE_GPU, NEGATION, Bench

from samclip.engines.plans.store import KERNELS_SUFFIX, plan_folder, remove_leftovers, remove_plan
from samclip.errors import DeviceMemoryError, EngineRunError

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.module = FakeRtx(bench.gpu, BOUNDS)
    return bench


@pytest.fixture
def rtx(bench: Bench) -> FakeRtx:
    assert isinstance(bench.module, FakeRtx)
    return bench.module


def run(bench: Bench, *sizes: int, **options: object) -> None:
    """Load the plan, run it on so many rows each, and close it."""
    engine = bench.load(**options)
    try:
        for rows in sizes:
            x = np.full((rows, 4), rows, np.float32)
            np.testing.assert_array_equal(engine.run({"x": x})["y"].numpy(), -x)
    finally:
        engine.close()


def kept() -> list[Path]:
    return sorted(plan_folder().glob(f"*{KERNELS_SUFFIX}"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_kernels_are_compiled_before_they_run_and_once_for_all_processes(
    bench: Bench, rtx: FakeRtx
) -> None:
    stored = bench.store()
    run(bench, 2, 3, 2)
    assert (rtx.compiled, rtx.slow) == (2, 0)
    (file,) = kept()
    assert file.name.startswith(stored.path.name.removesuffix(".plan"))
    run(bench, 3, 2)
    assert rtx.compiled == 2
    run(bench, 5)  # a new shape joins the others
    run(bench, 2, 3, 5)
    assert rtx.compiled == 3
    assert kept() == [file]
    remove_plan(stored.path)
    assert list(plan_folder().iterdir()) == []


def test_graphs_are_captured_by_the_library_alone(bench: Bench, rtx: FakeRtx) -> None:
    bench.store()
    run(bench, 2, 2, 2)
    assert (rtx.graphs, bench.gpu.captures) == (1, 0)
    run(bench, 2, 2, 2, cuda_graphs=False)
    assert (rtx.graphs, bench.gpu.captures) == (1, 0)


@pytest.mark.parametrize("can_capture", [True, False])
def test_a_library_without_own_graphs_is_asked_before_a_capture(
    can_capture: bool, bench: Bench, rtx: FakeRtx, caplog: pytest.LogCaptureFixture
) -> None:
    rtx.has_graphs = False
    bench.gpu.can_capture = can_capture
    bench.store()
    run(bench, 2, 2, 2, 2)
    assert rtx.graphs == 0
    assert bool(bench.gpu.captures) == bool(bench.gpu.launches) == can_capture
    said = [] if can_capture else ["says that its stream cannot be captured"]
    assert len(warnings(caplog)) == len(said)
    assert all(part in text for part, text in zip(said, warnings(caplog), strict=True))


def test_kernels_of_another_driver_take_the_place_of_the_former(bench: Bench, rtx: FakeRtx) -> None:
    bench.store()
    run(bench, 2)
    (former,) = kept()
    bench.host_gpu = msgspec.structs.replace(FAKE_GPU, cuda="13.1")
    run(bench, 2)
    (file,) = kept()
    assert file != former
    bench.host_gpu = msgspec.structs.replace(FAKE_GPU, processors=99)  # in the same machine
    run(bench, 2)
    assert len(kept()) == 2
    assert rtx.compiled == 3


FAULTS = {
    "damaged": lambda data: data[:-1] + b"?",
    "cut off": lambda data: data[:70],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_ignored_with_one_line_and_replaced(
    fault: str, bench: Bench, rtx: FakeRtx, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store()
    run(bench, 2)
    (file,) = kept()
    whole = file.read_bytes()
    file.write_bytes(FAULTS[fault](whole))
    run(bench, 2)
    (said,) = warnings(caplog)
    assert "compiled kernels are not used" in said
    assert file.read_bytes() == whole
    assert rtx.compiled == 2


def test_a_foreign_file_is_ignored_with_one_line(
    bench: Bench, rtx: FakeRtx, caplog: pytest.LogCaptureFixture
) -> None:
    """The library compares more than the file's name says."""
    bench.store()
    run(bench, 2)
    rtx.environment = "something else"
    run(bench, 2)
    (said,) = warnings(caplog)
    assert "of another GPU, driver or library" in said
    assert rtx.compiled == 2


def test_a_file_that_others_may_write_to_is_not_read(
    bench: Bench, rtx: FakeRtx, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store()
    run(bench, 2)
    kept()[0].chmod(0o666)
    run(bench, 2)
    assert "everybody may write to it" in warnings(caplog)[0]
    assert rtx.compiled == 2


def test_a_disk_without_room_costs_only_the_next_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("samclip.engines.tensorrt.kernels.write_digested", full)
    bench.store()
    run(bench, 2)
    (said,) = warnings(caplog)
    assert "No space left on device" in said
    assert kept() == []


def test_kernels_of_plans_that_are_gone_are_removed(bench: Bench) -> None:
    stored = bench.store()
    run(bench, 2)
    remove_leftovers(plan_folder())
    assert len(kept()) == 1
    stored.path.rename(plan_folder() / "elsewhere")
    remove_leftovers(plan_folder())
    assert kept() == []


def test_no_memory_for_a_context_leaves_nothing(bench: Bench, rtx: FakeRtx) -> None:
    rtx.activations = bench.gpu.memory + 1
    bench.store()
    with pytest.raises(DeviceMemoryError):
        bench.load(NEGATION)


def test_a_library_that_gives_no_settings_is_an_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "create_runtime_config", lambda _: None)
    bench.store()
    with pytest.raises(EngineRunError, match="no runtime configuration"):
        bench.load()


def test_the_stand_in_has_the_names_of_the_real_library() -> None:
    api = recorded_api(RTX)
    for kind, name in (
        (FakeRuntimeConfig, "IRuntimeConfig"),
        (FakeRuntimeCache, "IRuntimeCache"),
        (RtxContext, "IExecutionContext"),
    ):
        public = {n for n, v in inspect.getmembers(kind, callable) if not n.startswith("_")}
        assert public <= set(api[name]), name
    for enum in ("DynamicShapesKernelSpecializationStrategy", "CudaGraphStrategy"):
        assert sorted(getattr(FakeRtx, enum).__members__) == sorted(api[enum])
    assert set(api["SeekPosition"]) == {"SET", "CUR", "END"}
    assert {"read", "seek"} == set(api["IStreamReaderV2"])
    assert "REQUIRE_USER_ALLOCATION" in api["BuilderFlag"]
    assert "IRuntimeConfig" not in recorded_api("10.3.0")
    assert "IStreamReaderV2" not in recorded_api("10.3.0")
    newer = recorded_api("11.4.0.106")  # of TensorRT itself: no strategies
    assert "cuda_graph_strategy" not in newer["IRuntimeConfig"]
    assert "DynamicShapesKernelSpecializationStrategy" not in newer


def test_the_recorded_names_are_those_of_the_library_here() -> None:
    module = pytest.importorskip("tensorrt_rtx")
    if module.__version__ != RTX.removeprefix("rtx-"):
        pytest.skip(f"here is {module.__version__}")
    api = recorded_api(RTX)
    for name in ("IRuntimeConfig", "IRuntimeCache", "ICudaEngine", "IStreamReaderV2"):
        assert sorted(n for n in dir(getattr(module, name)) if n[0] != "_") == api[name]
    assert sorted(module.CudaGraphStrategy.__members__) == api["CudaGraphStrategy"]
