"""Paths that people give: a leading `~`, wrong types, and users without a home."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from samclip.disk.paths import home_folder, user_folder, user_path
from samclip.errors import InputError


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a home `home` next to it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "work"


@pytest.fixture
def nobody(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user that no file lists, without HOME, as in a container; the working folder."""
    monkeypatch.delenv("HOME")
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "SAMCLIP_CACHE_DIR", "SAMCLIP_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    return work


def test_a_tilde(work: Path) -> None:
    home = work.with_name("home")
    root = Path(pwd.getpwuid(0).pw_dir)
    for name in ("~tmp.jpg", "~$report.png"):  # users of these names do not exist
        assert user_path(name) == Path(name)
    assert user_path("~root/x") == root / "x"
    assert user_path("~root") == root
    assert user_path("~") == home
    assert user_path(Path("~/a/b")) == home / "a" / "b"
    assert user_path("a/~root") == Path("a/~root")
    (work / "~root").mkdir()
    (work / "~root" / "here").touch()
    assert user_path("~root/here") == Path("~root/here")
    assert user_path("~root/x") == root / "x"
    (work / "~").mkdir()
    assert user_path("~/x") == home / "x"  # a folder that is called ~ is never meant


@pytest.mark.parametrize("home", [None, "", "relative", "~"])
def test_without_a_home(nobody: Path, home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert home_folder() is None
    for path in ("~", "~/x"):
        with pytest.raises(InputError, match="set HOME"):
            user_path(path)
    with pytest.raises(InputError, match="no home folder"):
        user_folder("cache")
    assert user_path("~tmp.jpg") == Path("~tmp.jpg")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_folder("cache") == Path("/somewhere/samclip")


@pytest.mark.parametrize("odd", ["relative/x", "~/cache", ""])
def test_an_odd_xdg_folder_does_not_count(
    work: Path, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", odd)
    assert user_folder("cache") == work.with_name("home") / ".cache" / "samclip"


@pytest.mark.parametrize("given", [5, None, ["a"], b"bytes", object(), 1.5, "", "a\0b"])
def test_what_is_no_path(given: object) -> None:
    with pytest.raises(InputError, match="the key"):
        user_path(given, "the key")


def test_entries_of_a_folder_are_paths(tmp_path: Path) -> None:
    (tmp_path / "é").touch()
    for folder in (str(tmp_path), os.fsencode(tmp_path)):
        (entry,) = os.scandir(folder)
        assert user_path(entry) == tmp_path / "é"
