"""The description of the machine: this one, and others by their files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from samclip.engines.machine import device
from samclip.engines.machine import device as nvidia
from samclip.engines.machine import host as cores
from samclip.engines.machine.device import describe_device


def test_this_machine() -> None:
    info = describe_device()
    assert info.logical_cores == len(os.sched_getaffinity(0))
    assert 1 <= info.usable_cores <= info.logical_cores
    assert info.memory > 2**28
    assert info.cpu
    assert info.system
    assert dict(info.packages)["numpy"] == np.__version__
    assert json.loads(json.dumps(info.to_dict()))["packages"]["numpy"] == np.__version__


def test_cores_follow_the_affinity() -> None:
    mask = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mask)})
        assert cores.logical_cores() == cores.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, mask)


@pytest.fixture
def eight_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight physical cores of two threads each, no limits; gives the folder of its files."""
    for core in range(16):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 8},{core % 8 + 8}\n")
    monkeypatch.setattr(cores, "CPU_FOLDER", tmp_path)
    monkeypatch.setattr(cores, "QUOTA_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "QUOTA_V1", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    return tmp_path


def test_second_threads_do_not_count(eight_cores: Path) -> None:
    assert cores.logical_cores() == 16
    assert cores.usable_cores() == 8


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("", 8)],
)
def test_containers_of_version_2(eight_cores: Path, limit: str, expected: int) -> None:
    (eight_cores / "cpu.max").write_text(limit)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("9900000", 8)])
def test_containers_of_version_1(eight_cores: Path, quota: str, expected: int) -> None:
    (eight_cores / "cpu.cfs_quota_us").write_text(quota)
    (eight_cores / "cpu.cfs_period_us").write_text("100000")
    assert cores.usable_cores() == expected


def test_cores_without_topology(eight_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CPU_FOLDER", eight_cores / "nowhere")
    assert cores.usable_cores() == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nmodel name : AMD EPYC\nprocessor : 1\nmodel name : x\n", "AMD EPYC"),
        ("processor : 0\nBogoMIPS : 62.5\nModel : Raspberry Pi 5\n", "Raspberry Pi 5"),
    ],
)
def test_cpu_names(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "cpuinfo")
    assert describe_device().cpu == expected


def test_a_machine_whose_files_are_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPU_INFO", "RELEASE_INFO"):
        monkeypatch.setattr(device, name, tmp_path / "nowhere")
    monkeypatch.setattr(device, "PACKAGES", ("no-such-package",))
    monkeypatch.delattr(os, "sysconf")
    info = describe_device()
    assert info.memory == 0
    assert info.cpu
    assert info.packages == ()


def test_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    monkeypatch.setattr(nvidia, "MODEL_FILE", model)
    assert nvidia.jetson_model() is None
    model.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert nvidia.jetson_model() == "NVIDIA Jetson Orin Nano Developer Kit"
    model.write_bytes(b"Raspberry Pi 5 Model B\0")
    assert nvidia.jetson_model() is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "NVIDIA H200, 143771, 580.95.05, 9.0",
            nvidia.Gpu("NVIDIA H200", 143771 * 2**20, "580.95.05", "9.0"),
        ),
        ("Orin (nvgpu), [N/A], 540.3.0, [N/A]", nvidia.Gpu("Orin (nvgpu)", None, "540.3.0")),
        ("", nvidia.Gpu("NVIDIA GPU")),
    ],
)
def test_gpu_lines(line: str, expected: nvidia.Gpu) -> None:
    assert nvidia.parse_gpu(line) == expected


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver, and an `nvidia-smi` for tests to write."""
    script = tmp_path / "nvidia-smi"
    script.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(nvidia, "DRIVER_FILES", (str(tmp_path),))
    return script


def test_gpus(fake_smi: Path) -> None:
    fake_smi.write_text("#!/bin/sh\necho A, 1024, 580.1, 8.7\necho B, 2048, 580.1, 9.0\n")
    assert [gpu.name for gpu in nvidia.list_gpus()] == ["A", "B"]
    assert [gpu.memory for gpu in nvidia.list_gpus()] == [2**30, 2**31]


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60", "printf '\\n'"])
def test_smi_that_fails(fake_smi: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi.write_text(f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(nvidia, "TIMEOUT", 0.5)
    assert nvidia.list_gpus() == ()


def test_smi_is_not_started_without_a_driver(
    fake_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "DRIVER_FILES", ())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert nvidia.list_gpus() == ()
