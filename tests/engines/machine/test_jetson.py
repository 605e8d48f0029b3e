"""Jetsons by their files, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_trees import (
    DPKG,
    ORIN_NANO,
    ORIN_NANO_LINKS,
    THOR,
    THOR_LINKS,
    X86,
    write_tree,
)

from samclip.engines.machine.jetson import Memory, SystemTensorRt, find_jetson, read_memory
from samclip.engines.machine.kernel_files import MachineFiles


def test_orin_nano(tmp_path: Path) -> None:
    jetson = find_jetson(write_tree(tmp_path, ORIN_NANO, ORIN_NANO_LINKS))
    assert jetson is not None
    assert jetson.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert jetson.jetpack.version == "6.2"
    assert jetson.tensorrt == SystemTensorRt("10.3.0.30", "10.3.0.30")
    assert jetson.memory == Memory(7802096 * 1024, 4883008 * 1024, 3901040 * 1024, 3901032 * 1024)
    assert jetson.desktop is True
    assert jetson.container is False
    assert jetson.gpu_allowed is True


def test_thor(tmp_path: Path) -> None:
    jetson = find_jetson(write_tree(tmp_path, THOR, THOR_LINKS))
    assert jetson is not None
    assert jetson.model == "NVIDIA Jetson AGX Thor Developer Kit"
    assert jetson.jetpack.version == "7.0"
    assert jetson.tensorrt.library == "10.13.3.9"
    assert jetson.memory.swap == 0
    assert jetson.desktop is False


@pytest.mark.parametrize("tree", [X86, {}, {"/proc/device-tree/model": "Raspberry Pi 5\0"}])
def test_machines_that_are_not_jetsons(tree: dict[str, str], tmp_path: Path) -> None:
    assert find_jetson(write_tree(tmp_path, tree)) is None


def test_this_machine_is_described_without_failing() -> None:
    found = find_jetson()
    assert found is None or found.memory.total > 0


@pytest.mark.parametrize("left", ["/etc/nv_tegra_release", DPKG])
def test_a_container_hides_the_model(left: str, tmp_path: Path) -> None:
    jetson = find_jetson(write_tree(tmp_path, {left: ORIN_NANO[left], "/.dockerenv": ""}))
    assert jetson is not None
    assert jetson.model == ""
    assert jetson.container is True
    assert jetson.gpu_allowed is jetson.desktop is None


def test_every_file_may_be_odd(tmp_path: Path) -> None:
    noise = "\0\ufffd::\n< >\n: 9 kB\nMemTotal: many kB\n"
    tree = {**dict.fromkeys(ORIN_NANO, noise), "/proc/device-tree/model": "NVIDIA Jetson\0"}
    jetson = find_jetson(write_tree(tmp_path, tree))
    assert jetson is not None
    assert jetson.jetpack.version is None
    assert jetson.memory == Memory(0, 0, 0, 0)
    assert jetson.power.mode is None


def test_every_file_may_be_a_folder(tmp_path: Path) -> None:
    for name in ORIN_NANO:
        (tmp_path / name.lstrip("/")).mkdir(parents=True)
    assert find_jetson(MachineFiles(tmp_path)) is not None  # by the name of the release file


def test_swap_on_a_disk_is_no_zram(tmp_path: Path) -> None:
    swaps = ORIN_NANO["/proc/swaps"] + "/swapfile  file\t8388604\t0\t-2\n"
    memory = read_memory(write_tree(tmp_path, {"/proc/swaps": swaps}))
    assert memory.zram == 3901032 * 1024
