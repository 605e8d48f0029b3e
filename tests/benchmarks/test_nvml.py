"""NVIDIA's management library, of which a fake stands in."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from samclip.benchmarks import nvml
from samclip.benchmarks.nvml import open_nvml
from samclip.errors import CapabilityError


class NVMLError(Exception):
    pass


class FakeLibrary:
    NVMLError = NVMLError

    def __init__(self, *processes: Any, energy: bool = True, devices: int = 1) -> None:
        self.processes, self.energy, self.devices, self.open = processes, energy, devices, 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVIDIA's names
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index >= self.devices:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"GPU %d" % handle

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        if not self.energy:
            raise NVMLError("Not Supported")
        return 12_345

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return 71

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        if not self.energy:
            raise NVMLError("Not Supported")
        return 652_500

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return list(self.processes)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a fake library, or none, and a driver in place."""

    def put(library: FakeLibrary | None, driver: bool = True, jetson: str | None = None) -> None:
        monkeypatch.setattr(nvml, "find_driver", lambda: "/dev/nvidiactl" if driver else None)
        monkeypatch.setattr(nvml, "jetson_model", lambda: jetson)
        monkeypatch.setitem(sys.modules, "pynvml", library)

    return put


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def test_memory_and_energy_are_read_and_the_library_is_closed(place: Any) -> None:
    library = FakeLibrary(process(1, 5), process(42, 7))
    place(library)
    with open_nvml() as gpu:
        assert gpu.name == "GPU 0"
        assert gpu.joules() == 12.345
        assert gpu.process_memory(42) == 7
        assert library.open == 1
    assert library.open == 0


@pytest.mark.parametrize("processes", [[], [process(42, None)]])
def test_a_process_that_is_not_listed_is_unknown(place: Any, processes: list[Any]) -> None:
    place(FakeLibrary(*processes))
    with open_nvml() as gpu, pytest.raises(CapabilityError, match="--pid=host"):
        gpu.process_memory(42)


def test_what_is_missing_is_said(place: Any) -> None:
    def message() -> str:
        with pytest.raises(CapabilityError) as caught, open_nvml(0):
            pass
        return str(caught.value)

    place(None, driver=False)
    assert "no NVIDIA GPU" in message()
    place(None)
    assert "pip install nvidia-ml-py" in message()
    place(None, jetson="NVIDIA Jetson Orin Nano")
    assert "Jetson" in message()
    library = FakeLibrary(devices=0)
    place(library)
    assert "Invalid Argument" in message()
    assert library.open == 0


def test_a_gpu_without_the_counter_says_so(place: Any) -> None:
    place(FakeLibrary(energy=False))
    with open_nvml() as gpu, pytest.raises(CapabilityError, match=r"energy counter.*Not Supported"):
        gpu.joules()


def test_the_state_of_a_gpu(place: Any) -> None:
    class NewerLibrary(FakeLibrary):
        def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
            return 0x1 | 0x4 | 0x40

    place(NewerLibrary())
    with open_nvml() as gpu:
        assert gpu.state() == nvml.GpuState(
            clock=1980e6,
            memory_clock=2619e6,
            temperature=71.0,
            watts=652.5,
            slowed_by=("power cap", "temperature, by the hardware"),  # idle is no fault
        )


def test_a_gpu_hides_parts_of_its_state(place: Any) -> None:
    place(FakeLibrary(energy=False))  # and its package is older than the question for reasons
    with open_nvml() as gpu:
        state = gpu.state()
    assert (state.watts, state.slowed_by, state.temperature) == (None, None, 71.0)
