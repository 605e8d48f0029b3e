"""Packages in the report of `samclip doctor`, as the metadata lists them."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

from samclip.cli import machine_report
from samclip.cli.machine_report import examine_packages, installed_version

REQUIRES = [
    "numpy>=1.26",
    "nowhere-to-be-found>=2",
    'torch>=2.10; extra == "export"',
    'samclip[export]; extra == "dev"',
    "pytest>=8; extra == 'dev'",
    'onnxruntime-gpu>=1.23; extra == "gpu"',
    'tensorrt>=10; extra == "tensorrt"',
    'openvino>=2025.0; extra == "openvino"',
    "tomli>=2; python_version < '3.10' and extra == 'merge'",  # of versions that are not supported
]


def test_packages_come_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(machine_report, "installed_version", lambda name: "1")
    assert examine_packages() == [
        {"name": "numpy", "extra": None, "version": "1", "remedy": ""},
        {"name": "nowhere-to-be-found", "extra": None, "version": "1", "remedy": ""},
        {"name": "torch", "extra": "export", "version": "1", "remedy": ""},
    ]


def test_source_folder_has_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert examine_packages() == []


def test_versions_are_those_installed() -> None:
    assert installed_version("numpy") == np.__version__
    assert installed_version("nowhere-to-be-found") is None


def test_a_stand_in_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "onnxruntime-gpu":
            raise metadata.PackageNotFoundError(name)
        return "1.23"

    monkeypatch.setattr(metadata, "version", version)
    assert installed_version("onnxruntime") == "1.23"


def test_remedy_is_a_command_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(machine_report, "installed_version", lambda name: None)
    remedies = {found["name"]: found["remedy"] for found in examine_packages()}
    assert remedies["numpy"] == "pip install samclip"
    assert remedies["torch"] == "pip install 'samclip[export]'"
