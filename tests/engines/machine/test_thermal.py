"""The state of machines by their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_trees import ORIN_NANO_STATE, X86, write_tree

from samclip.engines.machine.jetson_power import Clock
from samclip.engines.machine.kernel_files import MachineFiles
from samclip.engines.machine.thermal import MachineState, read_state


def test_a_jetson_at_work(tmp_path: Path) -> None:
    state = read_state(write_tree(tmp_path, ORIN_NANO_STATE))
    assert state == MachineState(
        # in the order of the zones; one is off, and one reports that it is
        temperatures={"cpu-thermal": 63.625, "gpu-thermal": -4.5, "cpu-thermal#2": 61.0},
        clocks=(
            Clock("policy0", 729_600, 1_497_600, 1_113_600),
            Clock("17000000.gpu", 306_000_000, 612_000_000, 408_000_000),
        ),
        cooling={"cpufreq-cpu0": 0, "devfreq-17000000.gpu": 1},
        fans={"pwm-fan": 2},
        overcurrent={"oc1": 0, "oc2": 0, "oc3": 2},
        core_throttles=None,
        rails={"VDD_IN": 5.0, "VDD_CPU_GPU_CV": pytest.approx(1.248)},
        memory=4_883_008 * 1024,
    )


def test_a_pc_has_counts_of_throttled_cores_and_no_rails(tmp_path: Path) -> None:
    counts = {
        f"/sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count": f"{core}\n"
        for core in (0, 1, 12)
    }
    state = read_state(write_tree(tmp_path, {**X86, **counts}))
    assert state.core_throttles == 13
    assert state.rails is state.overcurrent is state.temperatures is None
    assert state.clocks == (Clock("policy0", 800_000, 5_000_000),)


def test_nothing_is_known_of_nothing(tmp_path: Path) -> None:
    state = read_state(MachineFiles(tmp_path))
    assert state == MachineState(None, (), None, None, None, None, None, None)


def test_every_file_may_be_odd(tmp_path: Path) -> None:
    odd = {name: "\0 ?\n" for name in ORIN_NANO_STATE if "type" not in name and "name" not in name}
    state = read_state(write_tree(tmp_path, {**ORIN_NANO_STATE, **odd}))
    assert state == MachineState(None, (), None, None, None, None, None, None)
