"""The Python that runs this, and the TensorRT that it would import."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from samclip.engines.machine import device as python_here
from samclip.engines.machine.device import describe_python


def test_this_python() -> None:
    here = describe_python()
    assert here.version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert here.prefix == sys.prefix
    assert here.virtual == (sys.prefix != sys.base_prefix)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in a separate folder, and a folder of modules."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return tmp_path


@pytest.mark.parametrize(
    ("config", "sees"),
    [
        ("include-system-site-packages = true\n", True),
        ("home = /usr/bin\ninclude-system-site-packages=True", True),
        ("include-system-site-packages = false\n", False),
        ("", False),
    ],
)
def test_environments(config: str, sees: bool, environment: Path) -> None:
    (environment / "pyvenv.cfg").write_text(config)
    assert describe_python().sees_system is sees


def test_the_systems_python_sees_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert describe_python().sees_system


def test_tensorrt_is_found_and_not_imported(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment / "modules" / "tensorrt"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(python_here, "version", {"tensorrt": "10.3.0"}.__getitem__)
    here = describe_python()
    assert (here.tensorrt, here.location) == ("10.3.0", str(environment / "modules"))


def test_tensorrt_without_metadata_has_no_known_version(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    (environment / "modules").mkdir()
    (environment / "modules" / "tensorrt.py").touch()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(python_here, "version", missing)
    assert describe_python().tensorrt == ""


def test_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_here, "TENSORRT", "no_such_module_anywhere")
    assert describe_python().tensorrt is None


def test_a_stand_in_without_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # type: ignore[arg-type]
    assert describe_python().tensorrt is None
