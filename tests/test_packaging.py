"""What people install: wheel, sdist and editable install hold the same modules and assets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import samclip

ROOT = Path(__file__).parent.parent
PACKAGE = Path(samclip.__file__).parent


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist, built from a copy of the files under version control."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    source = tmp_path_factory.mktemp("source")
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, names.split("\0")):
        origin, target = ROOT / name, source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_symlink():
            target.symlink_to(origin.readlink())
        elif origin.exists():
            target.write_bytes(origin.read_bytes())
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def sdist_files(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


def package_files(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("samclip/")}


def source_files() -> set[str]:
    """What the editable install offers: every file of the package's source tree."""
    paths = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in paths}


def test_wheel_sdist_and_editable_install_hold_the_same_files(wheel: Path, sdist: Path) -> None:
    assert package_files(wheel_files(wheel)) == source_files()
    assert package_files(sdist_files(sdist)) == source_files()


def test_wheel_has_types_assets_and_licence(wheel: Path) -> None:
    files = wheel_files(wheel)
    assert "samclip/py.typed" in files
    assert "samclip/assets/photos/coffee.jpg" in files
    assert "samclip/export/assets/clip_bpe_merges.txt.gz" in files
    assert {Path(name).name for name in files} >= {"LICENSE", "NOTICE"}


def test_wheel_installs_nothing_beside_samclip(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in wheel_files(wheel)}
    assert tops == {"samclip", f"samclip-{samclip.__version__}.dist-info"}


def test_sdist_can_be_checked_by_who_unpacks_it(sdist: Path) -> None:
    wanted = {"pyproject.toml", "README.md", "CHANGELOG.md", "constraints.txt", "scripts/check"}
    assert wanted | {"tests/conftest.py", "tests/test_packaging.py"} <= sdist_files(sdist)


def test_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    # The dependencies come from the interpreter that runs this test; samclip itself does not.
    Path(site.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    where = run(python, "-c", "import samclip; print(samclip.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(home)
    command = home / "bin" / "samclip"
    assert run(command, "--version", cwd=tmp_path).strip() == f"samclip {samclip.__version__}"
    report = json.loads(run(command, "doctor", "--json", cwd=tmp_path))
    assert report["backends"]
