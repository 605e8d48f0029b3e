"""The check that the runtime installs on aarch64: it finds wheels that do not fit, and all fit."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).parents[1] / "scripts" / "check-aarch64"
AARCH64, X86 = 183, 62
TAG = "cp310-cp310-manylinux2014_aarch64"


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    loader = SourceFileLoader("check_aarch64", str(SCRIPT))
    specification = spec_from_loader(loader.name, loader)
    assert specification is not None
    module = module_from_spec(specification)
    loader.exec_module(module)
    return module


@pytest.fixture
def core(proof: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """samclip requires only `one`."""
    monkeypatch.setattr(proof, "core_requirements", lambda: [Requirement("one[fast]>=1.5")])


def binary(machine: int = AARCH64, symbol: bytes = b"GLIBC_2.17") -> bytes:
    return b"\x7fELF\x02\x01" + b"\0" * 12 + machine.to_bytes(2, "little") + b"\0" + symbol + b"\0"


def make_wheel(
    folder: Path, name: str, *lines: str, content: bytes | None = None, tag: str = TAG
) -> None:
    metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 2.0", *lines, ""])
    with zipfile.ZipFile(folder / f"{name}-2.0-{tag}.whl", "w") as archive:
        archive.writestr(f"{name}-2.0.dist-info/METADATA", metadata)
        if content is not None:
            archive.writestr(f"{name}/part.so", content)


@pytest.mark.usefixtures("core")
def test_wheels_that_fit(proof: ModuleType, tmp_path: Path) -> None:
    needs = [
        'Requires-Dist: two>=1; platform_machine == "aarch64" and python_version < "3.11"',
        'Requires-Dist: three; sys_platform == "win32"',
        'Requires-Dist: four; extra == "fast"',
        'Requires-Dist: five; extra == "slow"',
        "Requires-Python: >=3.10",
    ]
    make_wheel(tmp_path, "one", *needs, content=binary())
    make_wheel(tmp_path, "two", "Requires-Dist: one", tag="py3-none-any")
    make_wheel(tmp_path, "four", tag="py3-none-any")
    assert proof.check(tmp_path, "3.10") == 0


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize(
    ("line", "content", "tag", "fault"),
    [
        ("Requires-Dist: two", None, TAG, "one requires two, and there is no wheel of it"),
        ("Requires-Dist: one>=3", None, TAG, "one requires one>=3, and the wheel is 2.0"),
        ("Requires-Python: >=3.11", None, TAG, "requires Python >=3.11"),
        ("Summary: .", binary(X86), TAG, "is for machine 62, not 183 (aarch64)"),
        ("Summary: .", binary(symbol=b"GLIBC_2.38"), TAG, "needs glibc 2.38"),
        ("Summary: .", None, "cp310-cp310-manylinux2014_x86_64", "is for manylinux2014_x86_64"),
    ],
)
def test_wheels_that_do_not_fit(
    line: str,
    content: bytes | None,
    tag: str,
    fault: str,
    proof: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_wheel(tmp_path, "one", line, content=content, tag=tag)
    assert proof.check(tmp_path, "3.10") == 1
    assert fault in capsys.readouterr().err


@pytest.mark.usefixtures("core")
def test_a_folder_without_wheels_proves_nothing(proof: ModuleType, tmp_path: Path) -> None:
    assert proof.check(tmp_path, "3.10") == 1


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.12"])  # of JetPack 6 and 7
def test_the_runtime_installs_on_a_jetson(python: str) -> None:
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--python", python],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("all fit")
