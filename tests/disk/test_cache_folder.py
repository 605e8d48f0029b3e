"""The folder of caches: whose it is, and a load that goes on without it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import samclip
from samclip.disk import cache_folder
from samclip.disk.cache_folder import check_private_file, open_cache, read_private_file
from samclip.errors import InputError
from samclip.runtime.text.text_cache import TextCache

OTHERS = 54_321  # a user that is not this one


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_folder, "_warned", set())


def unknown(uid: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


def no_home(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "SAMCLIP_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def tilde_without_home(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_home(work, monkeypatch)
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", "~/cache")


def choose(make: Callable[[Path], object]) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def prepare(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(work / "cache")
        monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(work / "cache"))

    return prepare


def open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def of_another(path: Path) -> None:
    path.mkdir()
    try:
        os.chown(path, OTHERS, OTHERS)
    except PermissionError:
        pytest.skip("only root can give a folder to another user")


UNUSABLE = {
    "no home": no_home,
    "a tilde without home": tilde_without_home,
    "a file": choose(Path.touch),
    "a pipe": choose(os.mkfifo),
    "a dangling link": choose(lambda path: path.symlink_to("nowhere")),
    "a name too long": choose(lambda path: None),
    "open to all": choose(open_to_all),
    "of another user": choose(of_another),
    "below a device": choose(lambda path: path.symlink_to("/dev/null/x")),
}


@pytest.mark.parametrize("prepare", UNUSABLE.values(), ids=UNUSABLE)
def test_a_cache_that_cannot_be_used_costs_one_warning(
    prepare: Callable[[Path, pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, monkeypatch)
    if prepare is UNUSABLE["a name too long"]:
        monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / ("x" * 300)))
    before = sorted(tmp_path.iterdir())
    for part in ("", "openvino", "calibration"):
        assert open_cache(part) is None
    cache = TextCache()
    cache.put({b"key": np.ones(4, np.float32)})
    assert cache.get([b"key"]) == {}
    (record,) = caplog.records
    assert "nothing is kept between runs" in record.getMessage()
    assert "SAMCLIP_CACHE_DIR" in record.getMessage()
    assert sorted(tmp_path.iterdir()) == before  # above all no folder called ~
    assert not any((tmp_path / "cache").iterdir() if (tmp_path / "cache").is_dir() else ())


def test_an_answer_without_a_home(
    tmp_path: Path,
    photo_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in a container with a user that no file lists; the working folder was removed as well."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    no_home(tmp_path, monkeypatch)
    with samclip.load(backend="onnxruntime") as model, model.encode(photo_path) as scene:
        assert scene.classify(["rocket", "coffee"]).best == "coffee"
    assert ["nothing is kept" in record.getMessage() for record in caplog.records] == [True]


def test_files_of_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    folder = open_cache("part")
    assert folder == tmp_path / "cache" / "part"
    assert folder.stat().st_mode & 0o777 == 0o700
    file = folder / "file"
    check_private_file(file)  # which is not there yet
    file.write_bytes(b"kept")
    check_private_file(file)
    assert read_private_file(file, 2) == b"kep"
    file.chmod(0o666)
    for check in (check_private_file, lambda path: read_private_file(path, 9)):
        with pytest.raises(PermissionError, match="everybody may write"):
            check(file)
    link = folder / "link"
    link.symlink_to(file)
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(OSError):
            read_private_file(path, 9)
        with pytest.raises(PermissionError, match="not a plain file"):
            check_private_file(path)


@pytest.mark.parametrize("given", [5, [], b"x", "", "a\0b", {}])
def test_a_cache_dir_that_is_no_path(given: object) -> None:
    with pytest.raises(InputError, match="cache_dir"):
        samclip.load(cache_dir=given)  # type: ignore[arg-type]
