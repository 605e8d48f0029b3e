from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from machine_trees import ORIN_NANO_STATE, write_tree
from timed_fakes import contender

from samclip.benchmarks.latency import energy
from samclip.benchmarks.latency import energy as sensors
from samclip.benchmarks.latency.energy import (
    RAPL,
    BoardSensor,
    CpuSensor,
    describe_energy,
    energy_row,
    measure_energy,
    open_sensor,
)
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.errors import CapabilityError
from samclip.progress import SILENT


def counter(root: Path, value: int | None, most: int = 1_000) -> MachineFiles:
    folder = root / RAPL.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "max_energy_range_uj").write_text(str(most))
    if value is not None:
        (folder / "energy_uj").write_text(str(value))
    return MachineFiles(root)


def test_the_cpu_counter_may_start_anew(tmp_path: Path) -> None:
    sensor = CpuSensor(counter(tmp_path, 900))
    counter(tmp_path, 990)
    assert sensor.joules() == pytest.approx(90e-6)
    counter(tmp_path, 40)
    assert sensor.joules() == pytest.approx(140e-6)


def test_a_cpu_without_a_readable_counter_says_why(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="no energy counter"):
        CpuSensor(MachineFiles(tmp_path))
    with pytest.raises(CapabilityError, match="root"):
        CpuSensor(counter(tmp_path, None))


def test_the_power_of_a_board_adds_up_over_time() -> None:
    sensor = BoardSensor("a rail", lambda: 10.0, 0.002)
    start = time.monotonic()
    while sensor.joules() < 0.1 and time.monotonic() - start < 5:
        time.sleep(0.002)
    sensor.close()
    assert 0.1 <= sensor.joules() <= 10 * (time.monotonic() - start) + 0.1


def test_a_board_that_does_not_tell_its_power_is_an_error() -> None:
    def watts() -> float:
        raise KeyError("tot")

    sensor = BoardSensor("a rail", watts, 0.001)
    sensor._thread.join(5)
    with pytest.raises(CapabilityError, match="KeyError"):
        sensor.joules()


def test_the_input_of_a_module_needs_no_jetson_stats(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sensors, "jetson_model", lambda: "NVIDIA Jetson Orin Nano")
    monkeypatch.setattr(sensors, "FILES", write_tree(tmp_path, ORIN_NANO_STATE))
    monkeypatch.setitem(sys.modules, "jtop", None)  # type: ignore[arg-type]
    with open_sensor(on_host=False) as sensor:
        assert sensor.name == "the module's input VDD_IN, INA3221"
        start = time.monotonic()
        while sensor.joules() == 0 and time.monotonic() - start < 5:
            time.sleep(0.01)
        assert 0 < sensor.joules() <= 5.0 * (time.monotonic() - start) + 0.1  # 5 V, 1 A


def test_a_jetson_asks_jetson_stats(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Board:
        power: Any = {"tot": {"power": 10_000_000}}  # noqa: RUF012 - milliwatts

        def start(self) -> None:
            calls.append("start")

        def close(self) -> None:
            calls.append("close")

    monkeypatch.setattr(sensors, "jetson_model", lambda: "NVIDIA Jetson Orin NX")
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=Board))  # type: ignore[arg-type]
    with open_sensor(on_host=False) as sensor:
        assert "board" in sensor.name
        start = time.monotonic()
        while sensor.joules() == 0 and time.monotonic() - start < 5:
            time.sleep(0.01)
        assert 100 < sensor.joules() <= 10_000 * (time.monotonic() - start + 0.1)
    assert calls == ["start", "close"]
    monkeypatch.setitem(sys.modules, "jtop", None)  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="jetson-stats is not installed"):
        open_sensor(on_host=True).__enter__()


def test_energy_is_shared_out_among_the_runs(
    monkeypatch: pytest.MonkeyPatch, photo_path: Path
) -> None:
    readings = iter([100.0, 160.0])

    @contextmanager
    def sensor(on_host: bool) -> Iterator[Any]:
        yield SimpleNamespace(name="meter", joules=lambda: next(readings))

    monkeypatch.setattr(energy, "open_sensor", sensor)
    monkeypatch.setattr(energy, "SECONDS", 0.05)
    (found,) = measure_energy([contender()], [photo_path], SILENT)
    assert found.runs >= 1
    assert found.per_run == pytest.approx(60 / found.runs)
    assert energy_row(found).value == found.per_run
    assert "meter" in describe_energy(found)


def test_without_a_sensor_the_row_says_so(
    monkeypatch: pytest.MonkeyPatch, photo_path: Path
) -> None:
    def sensor(on_host: bool) -> Any:
        raise CapabilityError("there is no NVIDIA GPU here.")

    monkeypatch.setattr(energy, "open_sensor", sensor)
    (found,) = measure_energy([contender()], [photo_path], SILENT)
    assert (found.joules, found.reason) == (None, "there is no NVIDIA GPU here.")
    assert energy_row(found).value is None
    assert "unknown: there is no NVIDIA GPU" in describe_energy(found)
