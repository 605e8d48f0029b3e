"""Power modes and clocks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from machine_trees import ORIN_NANO, THOR, X86, write_tree

from samclip.engines.machine.jetson_power import (
    MODES_FILE,
    STATUS_FILE,
    Clock,
    PowerMode,
    read_power,
)


def test_orin_nano_whose_fastest_mode_is_neither_first_nor_last(tmp_path: Path) -> None:
    power = read_power(write_tree(tmp_path, ORIN_NANO))
    assert power.mode == PowerMode(0, "15W", 612e6, 2133e6, 2)
    assert [mode.name for mode in power.modes] == ["15W", "25W", "MAXN_SUPER", "7W"]
    assert power.fastest == PowerMode(2, "MAXN_SUPER", math.inf, math.inf, 2)
    assert power.pinned is False
    assert [clock.name for clock in power.clocks] == ["policy0", "17000000.gpu"]


def test_thor_with_pinned_clocks(tmp_path: Path) -> None:
    power = read_power(write_tree(tmp_path, THOR))
    assert power.mode is not None
    assert (power.mode.number, power.mode.name) == (0, "MAXN")
    assert power.fastest is None  # its configuration says nothing of the GPU: no guess
    assert power.pinned is True
    assert Clock("gpu-gpc-0", 1575000000, 1575000000) in power.clocks


def test_a_pc_has_no_modes(tmp_path: Path) -> None:
    power = read_power(write_tree(tmp_path, X86))
    assert power.mode is None
    assert power.fastest is None


def test_one_clock_that_moves_is_enough(tmp_path: Path) -> None:
    tree = {**THOR, "/sys/class/devfreq/gpu-gpc-0/min_freq": "315000000"}
    assert read_power(write_tree(tmp_path, tree)).pinned is False


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ("pmode:0001", "25W"),
        ("pmode: 3\n", "7W"),
        ("pmode:0042", "mode 42"),
        ("", None),
        ("x", None),
    ],
)
def test_status_files(status: str, name: str | None, tmp_path: Path) -> None:
    mode = read_power(write_tree(tmp_path, {**ORIN_NANO, STATUS_FILE: status})).mode
    assert (None if mode is None else mode.name) == name


@pytest.mark.parametrize("text", ["", "< POWER_MODEL >", "< POWER_MODEL ID=x NAME=15W >", "<<>>\0"])
def test_odd_configurations_have_no_modes(text: str, tmp_path: Path) -> None:
    power = read_power(write_tree(tmp_path, {**ORIN_NANO, MODES_FILE: text}))
    assert power.modes == ()
    assert power.fastest is None


def test_clocks_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    tree = {name: text for name, text in ORIN_NANO.items() if not name.startswith("/sys/")}
    assert read_power(write_tree(tmp_path, tree)).pinned is None
