"""The machine's state over time, and what slowed it down."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from machine_trees import ORIN_NANO_STATE, write_tree
from msgspec.structs import replace

from samclip.benchmarks.board.record import Range, Reading
from samclip.benchmarks.board.watch import Watch, reader, watching, what_throttled
from samclip.benchmarks.nvml import GpuState
from samclip.engines.machine.kernel_files import MachineFiles

COOL = Reading(
    temperatures=None,
    clocks={"gpu": 2e9},
    clock_limits={"policy0": 1.5e9},
    cooling={"cpufreq-cpu0": 0},
    fans={"pwm-fan": 3},
    overcurrent={"oc1": 0, "oc3": 7},
    core_throttles=None,
    rails=None,
    memory=900,
    gpu_slowed_by=None,
)
BARE = Reading(**dict.fromkeys(COOL.__struct_fields__))


def during(*readings: Reading) -> Any:
    taken = iter([*readings, *[readings[-1]] * 1000])
    with watching(lambda: next(taken), 0.001) as watch:
        start = time.monotonic()
        while watch.during().readings < len(readings) and time.monotonic() - start < 5:
            time.sleep(0.001)
    return watch.during()


def test_readings_are_summed_up() -> None:
    hot = replace(COOL, clocks={"gpu": 1e9}, memory=300, cooling={"cpufreq-cpu0": 2})
    found = during(COOL, hot)
    assert found.readings >= 2
    assert (found.clocks["gpu"].lowest, found.clocks["gpu"].highest) == (1e9, 2e9)
    assert 1e9 < found.clocks["gpu"].mean < 2e9
    assert (found.memory.lowest, found.memory.highest) == (300, 900)
    assert found.cooling == {"cpufreq-cpu0": 2}
    assert found.temperatures is found.rails is found.gpu_slowed_by is None


def test_a_short_measurement_has_a_reading_of_its_end() -> None:
    readings = iter([COOL, COOL])
    watch = Watch(lambda: next(readings, COOL), seconds=60.0)
    watch.close()
    assert watch.during().readings in {1, 2}  # the first may already have been the last
    assert watch.during().memory == Range(lowest=900, mean=900, highest=900)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ()),
        ({"fans": {"pwm-fan": 9}}, ()),
        ({"overcurrent": {"oc1": 0, "oc3": 9}}, ("oc3: 2 events",)),
        ({"core_throttles": 3}, ("cores slowed down for their heat 3 times",)),
        ({"cooling": {"cpufreq-cpu0": 1}}, ("cpufreq-cpu0: state 1",)),
        ({"clock_limits": {"policy0": 1.2e9}}, ("policy0: limit lowered to 1200 MHz",)),
        ({"gpu_slowed_by": ("power cap",)}, ("gpu: power cap",)),
    ],
)
def test_what_slows_a_machine_down_is_named(changes: dict[str, Any], found: Any) -> None:
    later = replace(COOL, **changes)
    assert what_throttled(COOL, during(later), later) == found


def test_a_machine_that_reports_nothing_is_not_called_cool() -> None:
    assert what_throttled(BARE, during(BARE), BARE) is None
    limits = replace(BARE, clock_limits={"policy0": 1e9})
    assert what_throttled(limits, during(limits), limits) is None
    lower = replace(BARE, clock_limits={"policy0": 9e8})
    assert what_throttled(limits, during(limits), lower) == ("policy0: limit lowered to 900 MHz",)


def test_a_gpu_is_read_with_the_machine(tmp_path: Path) -> None:
    gpu: Any = SimpleNamespace(state=lambda: GpuState(1e9, None, 71.0, 300.0, ()))
    found = reader(write_tree(tmp_path, ORIN_NANO_STATE), gpu)()
    assert found.clocks == {"policy0": 1113.6e6, "17000000.gpu": 408e6, "gpu": 1e9}
    assert found.temperatures is not None
    assert found.temperatures["gpu"] == 71.0
    assert found.rails is not None
    assert found.rails["gpu"] == 300.0
    assert found.gpu_slowed_by == ()
    assert reader(MachineFiles(tmp_path / "none"))() == BARE
