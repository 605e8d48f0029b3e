"""Energy of an inference: a sensor read before and after many of them.

The sensor is a counter of an NVIDIA GPU or of a CPU, or a Jetson's power summed over time: that of
its module's input where the kernel reports one, else what jetson-stats makes of its rails.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from samclip.benchmarks.formats import digits
from samclip.benchmarks.latency.contenders import Contender
from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS, Walk, Workload, way_of
from samclip.benchmarks.measurements import Energy
from samclip.benchmarks.nvml import open_nvml
from samclip.benchmarks.records import Row
from samclip.benchmarks.rows import make_row
from samclip.benchmarks.statistics import Estimate
from samclip.benchmarks.tables import Column, Table, text_columns
from samclip.engines.machine.device import jetson_model
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.engines.machine.thermal import TOTAL_RAIL, read_rails
from samclip.errors import CapabilityError
from samclip.progress import Progress, track

RAPL = "/sys/class/powercap/intel-rapl:0"  # the first CPU package, of Intel and of AMD
JETSON_PACKAGE = "jetson-stats"
FILES = MachineFiles()
SECONDS = 5.0  # counters move some ten times a second: an error of 2 %
PROTOCOL = (
    f"Energy is that of '{ALL_STEPS}', again and again for {SECONDS:.0f} s, by the sensor that its "
    "row names: of the whole GPU, CPU or board, its idle part included."
)


class Sensor(Protocol):
    """Something that counts joules."""

    @property
    def name(self) -> str:
        """What is counted."""
        ...

    def joules(self) -> float:
        """Read the counter, which never falls; raises CapabilityError."""
        ...


class GpuSensor:
    """The counter of a GPU's whole board."""

    def __init__(self, gpu: Any) -> None:
        self._gpu = gpu
        self.name = f"{gpu.name}, NVML's energy counter"

    def joules(self) -> float:
        """Read the counter; raises CapabilityError."""
        return float(self._gpu.joules())


class CpuSensor:
    """The counter of a CPU package, without memory; after its highest value it is 0 again."""

    name = "CPU package 0, RAPL"

    def __init__(self, files: MachineFiles) -> None:
        self._files = files
        self._range = files.number(f"{RAPL}/max_energy_range_uj") or 0
        self._last = self._read()
        self._total = 0

    def joules(self) -> float:
        """Read the counter; raises CapabilityError."""
        now = self._read()
        self._total += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._total / 1e6

    def _read(self) -> int:
        if not self._files.exists(RAPL):
            raise CapabilityError(f"there is no energy counter of the CPU here ({RAPL}).")
        found = self._files.number(f"{RAPL}/energy_uj")
        if found is None:
            raise CapabilityError(
                f"{RAPL}/energy_uj may be read by root alone. Run this as root to have the CPU's "
                "energy."
            )
        return found


class BoardSensor:
    """The power of a Jetson, in watts, read again and again, over time."""

    def __init__(self, name: str, read_watts: Callable[[], float], seconds: float = 0.05) -> None:
        self.name = name
        self._read = read_watts
        self._seconds = seconds
        self._joules = 0.0
        self._error: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """Return the sum so far; raises CapabilityError."""
        if self._error is not None:
            raise CapabilityError(f"the power cannot be read ({self.name}): {self._error}.")
        return self._joules

    def close(self) -> None:
        """Stop reading."""
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        last = time.monotonic()
        while not self._end.wait(self._seconds):
            try:
                watts = self._read()
            except (KeyError, TypeError, ValueError) as error:
                self._error = f"{type(error).__name__} {error}"
                return
            now = time.monotonic()
            self._joules += watts * (now - last)
            last = now


@contextmanager
def open_sensor(on_host: bool) -> Iterator[Sensor]:
    """Open the sensor of what computes: the GPU, or with `on_host` the CPU; of a Jetson its board.

    Raises CapabilityError, which says what is missing.
    """
    if jetson_model() is not None:
        with _module_input() if TOTAL_RAIL in (read_rails(FILES) or {}) else _jetson() as board:
            yield board
    elif on_host:
        yield CpuSensor(FILES)
    else:
        with open_nvml() as gpu:
            yield GpuSensor(gpu)


@contextmanager
def _module_input() -> Iterator[Sensor]:
    """Read the rail that supplies the whole module."""

    def watts() -> float:
        return (read_rails(FILES) or {})[TOTAL_RAIL]

    sensor = BoardSensor(f"the module's input {TOTAL_RAIL}, INA3221", watts)
    try:
        yield sensor
    finally:
        sensor.close()


@contextmanager
def _jetson() -> Iterator[Sensor]:
    try:
        library: Any = importlib.import_module("jtop")
    except ImportError as error:
        raise CapabilityError(
            f"{JETSON_PACKAGE} is not installed. Install it: sudo pip install {JETSON_PACKAGE}"
        ) from error
    try:
        board = library.jtop()
        board.start()
    except Exception as error:  # its exceptions have no common base class
        raise CapabilityError(
            f"{JETSON_PACKAGE} does not answer: {error}. Look at: systemctl status jtop"
        ) from error

    def watts() -> float:
        return float(board.power["tot"]["power"]) / 1e3  # in milliwatts

    sensor = BoardSensor(f"the board's total power, {JETSON_PACKAGE}", watts)
    try:
        yield sensor
    finally:
        sensor.close()
        board.close()


def measure_energy(
    contenders: Sequence[Contender], photos: Sequence[Path], progress: Progress
) -> tuple[Energy, ...]:
    """Measure one model after the other; where there is no sensor, the record has the reason."""
    return tuple(_measure(contender, photos) for contender in track(progress, contenders, "energy"))


def _measure(contender: Contender, photos: Sequence[Path]) -> Energy:
    way = way_of(contender.model)
    try:
        with open_sensor(contender.backend.on_host) as sensor:
            walk = Walk(contender, Workload())
            walk.prepare()
            walk.answer(photos[0])
            before, start, runs = sensor.joules(), time.monotonic(), 0
            while time.monotonic() - start < SECONDS:
                walk.answer(photos[runs % len(photos)])
                runs += 1
            seconds, joules = time.monotonic() - start, sensor.joules() - before
    except CapabilityError as error:
        return Energy(
            model=contender.name, name=way, joules=None, runs=0, seconds=0, reason=str(error)
        )
    return Energy(
        model=contender.name,
        name=way,
        joules=joules,
        runs=runs,
        seconds=seconds,
        sensor=sensor.name,
    )


def describe_energy(energy: Energy) -> str:
    """Return a line on what was measured, or why nothing was."""
    if energy.per_run is None:
        return f"{energy.model}: energy unknown: {energy.reason}"
    watts = (energy.joules or 0.0) / energy.seconds
    return (
        f"{energy.model}: {energy.per_run:.3f} J for '{energy.name}', {watts:.1f} W over "
        f"{energy.runs} runs ({energy.sensor})"
    )


def energy_row(energy: Energy) -> Row:
    """Make a row, without a value where there is no sensor."""
    value = math.nan if energy.per_run is None else energy.per_run
    estimate = Estimate(value, math.nan, math.nan, energy.runs, 1)
    return make_row(energy.model, f"energy: {energy.name}", "warm", estimate, "joules")


def energy_table(found: Iterable[Energy]) -> Table:
    """Lay out the energy of each model, or why it is not known."""
    columns = (
        *text_columns("what", "model", "sensor"),
        Column("a run", lambda joules: f"{digits(joules)} J"),
        Column("runs"),
    )
    rows = [(one.name, one.model, one.sensor or one.reason, one.per_run, one.runs) for one in found]
    return Table(columns, rows)
