"""Packages, as the metadata lists them."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

from samclip.cli import findings as packages
from samclip.cli.findings import Package, installed_version, list_packages, remedy

REQUIRES = [
    "numpy>=1.26",
    "nowhere-to-be-found>=2",
    'torch>=2.10; extra == "export"',
    'samclip[export]; extra == "dev"',
    "pytest>=8; extra == 'dev'",
    'onnxruntime-gpu>=1.23; extra == "gpu"',
    'tensorrt>=10; extra == "tensorrt"',
    'openvino>=2025.0; extra == "openvino"',
]


def test_packages_come_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(packages, "installed_version", lambda name: "1")
    assert list_packages() == [
        Package("numpy", None, "1"),
        Package("nowhere-to-be-found", None, "1"),
        Package("torch", "export", "1"),
    ]


def test_source_folder_has_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert list_packages() == []


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


def test_remedy_is_a_command_to_copy() -> None:
    assert remedy(Package("numpy", None, None)) == "pip install samclip"
    assert remedy(Package("torch", "export", None)) == "pip install 'samclip[export]'"
