"""Findings on Jetsons, from recorded files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from machine_trees import DPKG, ORIN_NANO, ORIN_NANO_LINKS, THOR, THOR_LINKS, dpkg, write_tree

from samclip.cli.findings import Finding, judge_jetson
from samclip.engines.machine.device import PythonHere
from samclip.engines.machine.jetson import Jetson, find_jetson

SEEING = PythonHere("3.10", "/opt/me/env", True, True, "10.3.0", "/usr/lib/python3.10")
BLIND = replace(SEEING, sees_system=False, tensorrt=None, location="")


def read(folder: Path, tree: Mapping[str, str], links: Mapping[str, str] | None = None) -> Jetson:
    jetson = find_jetson(write_tree(folder, tree, links))
    assert jetson is not None
    return jetson


def judge(
    folder: Path, tree: Mapping[str, str] | None = None, python: PythonHere = SEEING
) -> dict[str, Finding]:
    """Findings on an Orin Nano, some of whose files are replaced, by what they are about."""
    found = judge_jetson(read(folder, {**ORIN_NANO, **(tree or {})}, ORIN_NANO_LINKS), python)
    return {finding.about: finding for finding in found}


def test_new_orin_nano(tmp_path: Path) -> None:
    found = judge(tmp_path)
    assert list(found) == ["jetpack", "power", "clocks", "swap", "desktop"]
    assert {finding.level for finding in found.values()} == {"advice"}
    assert found["power"].remedy == "for full speed: sudo nvpmodel -m 2 (MAXN_SUPER)"
    assert "jetson_clocks" in found["clocks"].remedy
    assert "swapon" in found["swap"].remedy
    assert "multi-user.target" in found["desktop"].remedy


def test_a_thor_at_full_speed_has_nothing_to_do(tmp_path: Path) -> None:
    python = replace(SEEING, version="3.12", tensorrt="10.16.0.72")
    tree = {
        **THOR,
        "/etc/nv_tegra_release": "# R39 (release), REVISION: 2.0",
        DPKG: dpkg(libnvinfer10="10.16.0.72-1+cuda13.2", python3_libnvinfer="10.16.0.72-1"),
    }
    assert judge_jetson(read(tmp_path, tree, THOR_LINKS), python) == []


def test_a_tensorrt_that_is_known_to_build_wrong_plans(tmp_path: Path) -> None:
    python = replace(SEEING, version="3.12", tensorrt="10.13.3.9")
    (finding,) = judge_jetson(read(tmp_path, THOR, THOR_LINKS), python)
    assert (finding.about, finding.level) == ("jetpack", "advice")
    assert "JetPack 7.0: its TensorRT 10.13.3.9 builds wrong FP16 plans" in finding.detail
    assert "JetPack 7.2 or newer" in finding.remedy
    assert "--no-gate" in finding.remedy
    other = {**THOR, DPKG: dpkg(libnvinfer11="11.4.1.1-1", python3_libnvinfer="11.4.1.1-1")}
    newer = replace(python, tensorrt="11.4.1.1")
    assert judge_jetson(read(tmp_path / "other", other, THOR_LINKS), newer) == []


def test_a_container_whose_tensorrt_is_another_build_than_the_hosts(tmp_path: Path) -> None:
    packages = {"libnvinfer10": "10.3.0.26-1", "python3_libnvinfer": "10.3.0.26-1"}
    tree = {DPKG: dpkg(**packages), "/.dockerenv": ""}
    finding = judge(tmp_path / "inside", tree)["tensorrt"]
    assert finding.level == "advice"
    assert "is 10.3.0.26, that of JetPack 6.2 is 10.3.0.30" in finding.detail
    assert "10.3.0.30-1+cuda12.5" in finding.remedy
    assert "tensorrt" not in judge(tmp_path / "outside", {DPKG: tree[DPKG]})
    assert "tensorrt" not in judge(tmp_path / "same", {"/.dockerenv": ""})


def test_a_mode_with_other_cores_needs_a_restart(tmp_path: Path) -> None:
    modes = (
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\nCPU_ONLINE CORE_1 1\n"
        "GPU MAX_FREQ -1\n< POWER_MODEL ID=1 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
        "GPU MAX_FREQ 612000000\n"
    )
    tree = {"/etc/nvpmodel.conf": modes, "/var/lib/nvpmodel/status": "pmode:0001"}
    remedy = judge(tmp_path, tree)["power"].remedy
    assert remedy.endswith("nvpmodel -m 0 (MAXN), which needs a restart for its 2 cores")


def test_an_environment_that_hides_tensorrt(tmp_path: Path) -> None:
    first = next(iter(judge(tmp_path, python=BLIND).values()))
    assert (first.about, first.level) == ("tensorrt", "problem")
    assert first.detail == "JetPack's TensorRT 10.3.0.30 cannot be seen from /opt/me/env"
    assert "include-system-site-packages = true in /opt/me/env/pyvenv.cfg" in first.remedy
    assert "/usr/bin/python3 -m venv --system-site-packages" in first.remedy


def test_a_python_that_jetpack_has_no_tensorrt_for(tmp_path: Path) -> None:
    finding = judge(tmp_path, python=replace(BLIND, version="3.12"))["tensorrt"]
    assert "is for Python 3.10, and this is Python 3.12" in finding.detail
    assert "/usr/bin/python3 -m venv --system-site-packages" in finding.remedy


def test_a_tensorrt_of_pip_that_hides_jetpacks(tmp_path: Path) -> None:
    python = replace(SEEING, tensorrt="11.4.0.1", location="/opt/me/env/lib")
    finding = judge(tmp_path, python=python)["tensorrt"]
    assert "imports TensorRT 11.4.0.1 from /opt/me/env/lib" in finding.detail
    assert "libraries are 10.3.0.30" in finding.detail
    assert finding.remedy.startswith("pip uninstall -y tensorrt ")


@pytest.mark.parametrize("version", ["10.3.0", "10.3.0.30", ""])
def test_a_tensorrt_that_fits_or_has_no_version(version: str, tmp_path: Path) -> None:
    assert "tensorrt" not in judge(tmp_path, python=replace(SEEING, tensorrt=version))


def test_tensorrt_is_not_installed(tmp_path: Path) -> None:
    found = judge(tmp_path, {DPKG: dpkg(nvidia_l4t_core="36.4.3-2025")}, BLIND)
    assert "apt-get install nvidia-jetpack" in found["tensorrt"].remedy


def test_tensorrt_is_not_installed_in_a_container(tmp_path: Path) -> None:
    found = judge(tmp_path, {DPKG: dpkg(), "/.dockerenv": ""}, BLIND)
    assert "docker/jetson.Dockerfile" in found["tensorrt"].remedy


def test_tensorrt_without_its_python_module(tmp_path: Path) -> None:
    found = judge(tmp_path, {DPKG: dpkg(libnvinfer10="10.3.0.30-1+cuda12.5")}, BLIND)
    assert found["tensorrt"].remedy == "sudo apt-get install python3-libnvinfer"


@pytest.mark.parametrize(
    ("release", "problem"), [("35 4.1", True), ("36 3.0", True), ("36 4.0", False)]
)
def test_a_jetpack_that_is_too_old(release: str, problem: bool, tmp_path: Path) -> None:
    major, minor = release.split()
    line = f"# R{major} (release), REVISION: {minor}, GCID: 1"
    found = judge(tmp_path, {"/etc/nv_tegra_release": line})
    assert (found["jetpack"].level == "problem") is problem
    if problem:
        assert "JetPack 7.2 or newer, or 6.2" in found["jetpack"].remedy


def test_a_container_that_hides_the_release(tmp_path: Path) -> None:
    found = judge(tmp_path, {"/etc/nv_tegra_release": "", DPKG: "", "/.dockerenv": ""})
    assert "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" in found["jetpack"].remedy


def test_a_user_without_access_to_the_gpu(tmp_path: Path) -> None:
    jetson = replace(read(tmp_path, THOR), gpu_allowed=False)
    (finding,) = [found for found in judge_jetson(jetson, SEEING) if found.about == "gpu"]
    assert finding.level == "problem"
    assert "usermod -aG video,render" in finding.remedy
    inside = replace(jetson, container=True)
    (finding,) = [found for found in judge_jetson(inside, SEEING) if found.about == "gpu"]
    assert "--group-add video" in finding.remedy


def test_swap_on_a_disk_and_no_desktop_is_enough(tmp_path: Path) -> None:
    memory = ORIN_NANO["/proc/meminfo"].replace("SwapTotal:       3901040", "SwapTotal: 12289644")
    jetson = read(tmp_path, {**ORIN_NANO, "/proc/meminfo": memory}, THOR_LINKS)
    assert not {"swap", "desktop"} & {found.about for found in judge_jetson(jetson, SEEING)}


def test_little_free_memory(tmp_path: Path) -> None:
    memory = ORIN_NANO["/proc/meminfo"].replace("4883008", " 883008")
    finding = judge(tmp_path, {"/proc/meminfo": memory})["memory"]
    assert finding.detail == "904.2 MB of memory are free"
    assert "close programs" in finding.remedy


def test_problems_come_first(tmp_path: Path) -> None:
    levels = [finding.level for finding in judge(tmp_path, python=BLIND).values()]
    assert levels == sorted(levels, key=["problem", "advice"].index)
    assert len(set(levels)) == 2
