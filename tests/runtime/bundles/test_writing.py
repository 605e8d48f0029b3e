"""Writing bundles: complete or absent, whatever fails and however many write."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import tiny_files, tiny_manifest, write_tiny_bundle
from tree import ROOT, SUPPORT

from samclip.disk import directory_swap
from samclip.errors import (
    BundleError,
    BundleNotFoundError,
    ExportError,
    ManifestError,
    UnsafePathError,
)
from samclip.runtime.bundles import writing as bundle_write
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.home import find_bundle
from samclip.runtime.bundles.manifest_file import MAX_MANIFEST_BYTES
from samclip.runtime.bundles.writing import write_bundle


def model_type(path: Path) -> str:
    """What tells the bundles of these tests apart, read from a verified bundle."""
    bundle = Bundle.open(path)
    bundle.verify()
    return bundle.manifest.model_type


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_nothing_is_left_beside_the_bundle(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "a" / "b" / "tiny")
    assert path == tmp_path / "a" / "b" / "tiny"
    assert names(path.parent) == {"tiny"}
    assert path.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_files_may_be_given_as_paths(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 3_000_000)
    (tmp_path / "link").symlink_to(tmp_path / "source")
    files = {**tiny_files(), "big": tmp_path / "source", "copy": tmp_path / "link"}
    bundle = Bundle.open(write_bundle(tmp_path / "tiny", tiny_manifest(), files))
    assert bundle.read("big") == bundle.read("copy") == b"x" * 3_000_000


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    {"missing": lambda: None, "directory": source.mkdir, "fifo": lambda: os.mkfifo(source)}[kind]()
    with pytest.raises(ExportError, match="source is not a plain file"):
        write_bundle(tmp_path / "tiny", tiny_manifest(), {**tiny_files(), "x": source})
    assert names(tmp_path) <= {"source"}


def test_existing_bundle_is_kept_without_overwrite(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny", model_type="old")
    with pytest.raises(ExportError, match="exists already"):
        write_tiny_bundle(path, model_type="new")
    assert model_type(path) == "old"
    write_tiny_bundle(path, overwrite=True, model_type="new")
    assert model_type(path) == "new"
    assert names(tmp_path) == {"tiny"}


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert model_type(write_tiny_bundle(tmp_path / "tiny")) == "test"


@pytest.mark.parametrize("kind", ["file", "link", "folder of photos"])
def test_what_is_no_bundle_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(elsewhere)
    else:
        target.mkdir()
        (target / "photo.jpg").write_text("mine")
    with pytest.raises(ExportError, match="is not replaced"):
        write_tiny_bundle(target, overwrite=True)
    assert names(tmp_path) == {"target", "elsewhere"}
    assert names(elsewhere) == set()
    if kind == "folder of photos":
        assert names(target) == {"photo.jpg"}


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b", "manifest.json", "A//b"])
def test_bad_names_write_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePathError):
        write_bundle(tmp_path / "tiny", tiny_manifest(), {**tiny_files(), name: b"x"})
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["..", "con", "trailing.", "a:b"])
def test_bad_targets(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePathError):
        write_tiny_bundle(tmp_path / name)


def test_manifest_that_no_reader_takes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="at most"):
        write_tiny_bundle(tmp_path / "tiny", model_type="x" * MAX_MANIFEST_BYTES)
    with pytest.raises(ManifestError, match="does not list it"):
        write_bundle(tmp_path / "tiny", tiny_manifest(), {"encoder.onnx": b""})
    assert names(tmp_path) == set()


FAULTS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT]
CALLS = ["write", "fsync", "rename", "mkdir"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", FAULTS)
def test_disk_faults_leave_the_old_bundle(
    tmp_path: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of each kind that writing makes fails once, in its turn."""
    path = write_tiny_bundle(tmp_path / "tiny", model_type="old")
    for turn in range(1, 100):
        with monkeypatch.context() as patch:
            made = fail_at(patch, call, turn, code)
            try:
                write_tiny_bundle(path, overwrite=True, model_type="new")
            except ExportError as error:
                assert os.strerror(code) in str(error)
        assert names(tmp_path) == {"tiny"}
        if made() < turn:  # no such call any more: it went through
            break
        if model_type(path) == "new":  # the last calls come after the new one is in place
            assert call in {"fsync", "rename"}
            shutil.rmtree(path)
            write_tiny_bundle(path, model_type="old")
    assert turn > 1
    assert model_type(path) == "new"


def fail_at(patch: pytest.MonkeyPatch, call: str, turn: int, code: int) -> Any:
    """Make the call number `turn` of a kind raise; returns a function that counts them."""
    calls = 0

    def failing(original: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == turn:
                raise OSError(code, os.strerror(code))
            return original(*args, **kwargs)

        return wrapped

    if call == "write":
        patch.setattr(bundle_write, "write_entry", failing(bundle_write.write_entry))
    elif call == "fsync":
        patch.setattr(os, "fsync", failing(os.fsync))
    else:
        patch.setattr(Path, call, failing(getattr(Path, call)))
    return lambda: calls


def name_aside(path: Path) -> Path:
    """The path to which a replacement of the directory `path` moves it."""
    return path.with_name(directory_swap._name_aside(path.name, path.lstat()))


def test_a_swap_that_stopped_between_its_renames_is_recovered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_bundle(tmp_path / "tiny", model_type="old")
    aside = name_aside(path)
    path.rename(aside)
    assert model_type(path) == "old"  # by opening it
    path.rename(aside)
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert find_bundle("tiny") == path  # by its name
    path.rename(aside)
    with pytest.raises(ExportError, match="exists already"):  # by writing to it
        write_tiny_bundle(path, model_type="new")
    assert model_type(path) == "old"
    assert names(tmp_path) == {"tiny"}


@pytest.mark.parametrize("plant", ["by anybody", "open to all", "not a bundle", "a link"])
def test_what_was_planted_is_not_taken_for_an_interrupted_overwrite(
    plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hidden folder in the working folder, as an archive may bring it."""
    source = write_tiny_bundle(tmp_path / "elsewhere" / "tiny", model_type="planted")
    work = tmp_path / "work"
    work.mkdir()
    planted = source.rename(work / "tiny")
    aside = name_aside(planted)
    if plant == "by anybody":
        aside = work / f".tiny.{'0' * 16}.old"
    elif plant == "open to all":
        planted.chmod(0o777)
    elif plant == "not a bundle":
        (planted / "manifest.json").unlink()
    planted.rename(aside)
    if plant == "a link":
        aside.rename(tmp_path / "target")
        aside.symlink_to(tmp_path / "target")
    monkeypatch.chdir(work)
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path / "home"))
    with pytest.raises(BundleNotFoundError, match="rename it"):
        find_bundle("tiny")
    with pytest.raises(BundleNotFoundError):
        Bundle.open("tiny")
    assert names(work) == {aside.name}


def test_a_known_name_goes_before_an_interrupted_overwrite_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = write_tiny_bundle(tmp_path / "home" / "tiny")
    other = write_tiny_bundle(tmp_path / "work" / "tiny")
    other.rename(name_aside(other))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("SAMCLIP_HOME", str(tmp_path / "home"))
    assert find_bundle("tiny") == known


def test_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    partial = tmp_path / f".tiny.{'0' * 16}.partial"
    others = [
        tmp_path / name
        for name in (".tiny.partial", ".tiny2.0.old", "tiny.old", f".tiny.{'0' * 16}.old")
    ]
    path = write_tiny_bundle(tmp_path / "tiny")
    made = tmp_path / "made"
    for folder in [partial, made, *others]:
        folder.mkdir()
    old = made.rename(tmp_path / directory_swap._name_aside("tiny", made.lstat()))
    with directory_swap.partial_directory(path) as at_work:
        write_tiny_bundle(path, overwrite=True)
        assert at_work.exists()
    assert not partial.exists()
    assert not old.exists()
    assert all(folder.exists() for folder in others)


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_writers_one_winner(tmp_path: Path, overwrite: bool) -> None:
    for round_ in range(10):
        path = tmp_path / f"tiny{round_}"
        results = write_together(path, overwrite)
        assert model_type(path) in {"0", "1", "2", "3"}
        assert names(tmp_path) == {f"tiny{i}" for i in range(round_ + 1)}
        assert results.count("written") == (4 if overwrite else 1)


def write_together(path: Path, overwrite: bool) -> list[str]:
    """Write four bundles at once to one place; gives how each fared."""
    start, results = threading.Barrier(4), []

    def write(number: int) -> None:
        start.wait()
        try:
            write_tiny_bundle(path, overwrite=overwrite, model_type=str(number))
            results.append("written")
        except ExportError as error:
            results.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_readers_only_see_whole_bundles(tmp_path: Path) -> None:
    """Open and verify while another thread overwrites: an old or a new one, or an honest error."""
    path = write_tiny_bundle(tmp_path / "tiny", model_type="0")
    done = threading.Event()

    def overwrite() -> None:
        for number in range(20):
            write_tiny_bundle(path, overwrite=True, model_type=str(number))
        done.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    seen = set()
    while not done.is_set():
        try:
            bundle = Bundle.open(path)
        except BundleError:
            continue
        seen.add(bundle.manifest.model_type)
        assert bundle.manifest.files.keys() == tiny_files().keys()
    writer.join()
    assert seen <= {str(number) for number in range(20)}
    assert model_type(path) == "19"


WRITER = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
from tiny_bundle import write_tiny_bundle
print("ready", flush=True)
for number in range(10_000):
    write_tiny_bundle(Path({path!r}), overwrite=True, model_type=str(number))
"""


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_writer_leaves_the_old_or_the_new(tmp_path: Path, count: int) -> None:
    path = write_tiny_bundle(tmp_path / "tiny", model_type="old")
    code = WRITER.format(tests=str(SUPPORT), root=str(ROOT), path=str(path))
    for moment in range(count):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.002 * (moment * 7 % 50))
            writer.send_signal(signal.SIGKILL)
        assert model_type(path) == "old" or model_type(path).isdigit()
