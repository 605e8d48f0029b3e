"""Packages: wheel, sdist and editable install hold the same modules and assets."""

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
from samclip.runtime.assets import DEFAULT_BUNDLE, packaged_bundles
from samclip.runtime.bundles.bundle import Bundle

ROOT = Path(__file__).parent.parent
PACKAGE = Path(samclip.__file__).parent
TINY = packaged_bundles() / DEFAULT_BUNDLE
MAX_BUNDLE_BYTES = 52_000_000
FOREIGN = ("PYTHONPATH", "SAMCLIP_BUNDLE", "SAMCLIP_HOME")
OFFLINE = """
import socket

def refuse(*arguments):
    raise OSError("a test runs offline")

socket.socket.connect = socket.getaddrinfo = refuse
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
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
    """All files of the package's source tree, which the editable install offers."""
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


def test_wheel_installs_only_samclip(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in wheel_files(wheel)}
    assert tops == {"samclip", f"samclip-{samclip.__version__}.dist-info"}


def test_sdist_holds_what_its_checks_need(sdist: Path) -> None:
    wanted = {"pyproject.toml", "README.md", "CHANGELOG.md", "constraints.txt", "scripts/check"}
    wanted |= {"tools/peers/__main__.py", "tools/peers/workers/loop.py"}
    assert wanted | {"tests/conftest.py", "tests/test_packaging.py"} <= sdist_files(sdist)


@pytest.mark.slow
def test_an_index_takes_the_packages(wheel: Path, sdist: Path) -> None:
    """Metadata that an index refuses, and a README that it cannot render, fail here."""
    checked = run(
        sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=wheel.parent
    )
    assert checked.count("PASSED") == 2


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


def test_the_default_bundle_is_small_whole_and_proven() -> None:
    assert sum(p.stat().st_size for p in TINY.rglob("*") if p.is_file()) <= MAX_BUNDLE_BYTES
    bundle = Bundle.open(TINY)
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.name == DEFAULT_BUNDLE
    assert manifest.clip_head is not None
    assert manifest.clip_head.trained
    assert manifest.graphs.text_encoder is not None
    assert {source.license for source in manifest.provenance.sources} == {"Apache-2.0"}
    assert manifest.parity
    assert all(row.max_rel_error <= row.tolerance == 1e-4 for row in manifest.parity)
    assert manifest.rounding
    assert all(row.margin >= 0 for row in manifest.rounding)


def test_wheel_and_sdist_hold_the_default_bundle(wheel: Path, sdist: Path) -> None:
    names = {f"samclip/assets/bundles/{DEFAULT_BUNDLE}/{path.name}" for path in TINY.iterdir()}
    assert names <= wheel_files(wheel)
    assert names <= sdist_files(sdist)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel and its requirements, without a network."""
    home = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=home)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    Path(site.strip(), "sitecustomize.py").write_text(OFFLINE)
    return home / "bin"


@pytest.mark.slow
def test_a_bare_environment_answers_every_task_offline(bare: Path, tmp_path: Path) -> None:
    """Without torch or network, with the packaged bundle and photo."""
    code = "import importlib.util as i, samclip; print(i.find_spec('torch'), samclip.__file__)"
    torch, where = run(bare / "python", "-c", code, cwd=tmp_path).split()
    assert torch == "None"
    assert Path(where).is_relative_to(bare.parent)
    photo = Path(where).parent / "assets" / "photos" / "coffee.jpg"
    tasks = {
        "classify": ["--names", "a cup,a rocket"],
        "segment": ["--box", "172,17,410,308", "--names", "cup,rocket"],
        "semantic": ["--names", "cup,table"],
    }
    for task, options in tasks.items():
        command = (bare / "samclip", task, photo, *options, "--json")
        answer = json.loads(run(*command, cwd=tmp_path))
        assert (answer["bundle"], answer["trained_head"]) == (DEFAULT_BUNDLE, True)
    run(bare / "samclip", "demo", cwd=tmp_path)
    assert (tmp_path / "coffee.demo.png").stat().st_size > 100_000
    report = json.loads(run(bare / "samclip", "doctor", "--json", cwd=tmp_path))
    packaged = Path(where).parent / "assets" / "bundles" / DEFAULT_BUNDLE
    assert report["default_bundle"]["path"] == str(packaged)
