"""Plans read in pieces where the GPU shares the machine's memory: the bytes that were verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_tensorrt import MAGIC, NewerTensorRt
from tensorrt_bench import BOUNDS, FAKE_GPU, NEGATION, Bench, tensorrt_bench

from samclip.engines.plans import own_files
from samclip.engines.plans.own_files import VerifiedFile
from samclip.engines.tensorrt import reader
from samclip.errors import PlanDamagedError

X = np.arange(8, dtype=np.float32).reshape(2, 4)
PIECE = 64
OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    """A Jetson whose TensorRT reads streams; pieces are small."""
    monkeypatch.setattr(own_files, "PIECE_BYTES", PIECE)
    with tensorrt_bench("cuda-python", monkeypatch, tmp_path) as bench:
        bench.module = NewerTensorRt(bench.gpu, BOUNDS)
        bench.host_gpu = msgspec.structs.replace(FAKE_GPU, integrated=True)
        yield bench


def test_a_plan_is_read_in_pieces(bench: Bench) -> None:
    engine = bench.start()
    np.testing.assert_array_equal(engine.run({"x": X})["y"].numpy(), -X)
    engine.close()
    plan = MAGIC + NEGATION.onnx
    assert bench.module.given == [plan]
    assert bench.module.pieces == [-(-len(plan) // PIECE)]
    descriptors = len([*OPEN_FILES.iterdir()])
    bench.load().close()
    assert len([*OPEN_FILES.iterdir()]) == descriptors  # the file is closed


def test_a_gpu_with_its_own_memory_gets_the_plan_at_once(bench: Bench) -> None:
    bench.host_gpu = FAKE_GPU
    bench.start().close()
    assert bench.module.pieces == []


def test_nothing_reaches_tensorrt_before_all_was_verified(bench: Bench) -> None:
    stored = bench.store()
    data = bytearray(stored.path.read_bytes())
    data[-1] ^= 1
    stored.path.write_bytes(data)
    with pytest.raises(PlanDamagedError, match="Build it again"):
        bench.load()
    assert bench.module.pieces == []


@pytest.mark.parametrize("way", ["other bytes", "cut off"])
def test_a_plan_that_is_written_to_while_it_is_read_is_refused(
    way: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, make = bench.store(), reader.make_reader

    def change_and_make(module: object, file: VerifiedFile) -> object:
        data = stored.path.read_bytes()
        with stored.path.open("r+b") as changed:
            changed.write(data[:PIECE] + b"evil")
            if way == "cut off":
                changed.truncate()
        return make(module, file)

    monkeypatch.setattr("samclip.engines.tensorrt.library.make_reader", change_and_make)
    with pytest.raises(PlanDamagedError, match="changed while it was read") as caught:
        bench.load()
    assert caught.value.steps
    assert bench.module.given[-1] == (MAGIC + NEGATION.onnx)[:PIECE]  # only what was verified


def test_a_plan_that_is_replaced_while_it_is_read_stays_what_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, make = bench.store(), reader.make_reader

    def replace_and_make(module: object, file: VerifiedFile) -> object:
        stored.path.unlink()
        stored.path.write_bytes(b"evil")
        return make(module, file)

    monkeypatch.setattr("samclip.engines.tensorrt.library.make_reader", replace_and_make)
    bench.load().close()
    assert bench.module.given == [MAGIC + NEGATION.onnx]
