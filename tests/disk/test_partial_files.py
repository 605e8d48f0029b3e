"""Files that appear whole or not at all, and what is left by writers that died."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samclip.disk import partial_files
from samclip.disk.partial_files import (
    locked_partial,
    partial_file,
    partial_name,
    remove_abandoned,
    result_file,
    result_path,
    write_file,
)
from samclip.errors import SamclipError, WriteError


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_bytes(b"old")
    with partial_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == {"a file"}


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ValueError("no")])
def test_a_block_that_fails_leaves_the_old(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    with pytest.raises(type(error)), partial_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_another_library_may_replace_the_file_by_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with result_path(path) as place:
        own = place.with_name("of the library")
        own.write_bytes(b"by name")
        own.chmod(0o600)
        own.replace(place)
        remove_abandoned(tmp_path)
    assert path.read_bytes() == b"by name"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with pytest.raises(KeyboardInterrupt), result_path(path) as place:
        place.with_name("of the library").write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"by name"
    assert names(tmp_path) == {"file"}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_modes_are_those_of_a_new_file(tmp_path: Path, mode: int) -> None:
    write_file(tmp_path / "file", b"", mode)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode & ~_umask()


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".png")  # 254 bytes of the 255 that a name may have
    write_file(path, b"whole")
    partial_name(path).write_bytes(b"half")
    remove_abandoned(tmp_path, {path.name})
    assert names(tmp_path) == {path.name}


def test_results_tell_the_remedy(tmp_path: Path) -> None:
    message = r"no/file could not be written: No such file.* Make room"
    with pytest.raises(WriteError, match=message) as caught, result_file(tmp_path / "no" / "file"):
        pass
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, SamclipError)


WRITER = """
import sys, time
from pathlib import Path
from samclip.disk.partial_files import partial_file
with partial_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_only_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (partial,) = names(tmp_path)
        os.utime(tmp_path / partial, (0, 0))  # a clock that was wrong
        remove_abandoned(tmp_path)
        assert names(tmp_path) == {partial}
        writer.kill()
    remove_abandoned(tmp_path, {"another file"})
    assert names(tmp_path) == {partial}
    remove_abandoned(tmp_path, {"file"})
    assert names(tmp_path) == set()


def test_files_that_are_not_partial_stay(tmp_path: Path) -> None:
    kept = {".file.partial", f".file.{'0' * 15}.partial", f"file.{'0' * 16}.partial", "file"}
    for name in kept:
        (tmp_path / name).mkdir()
    pipe, link = (tmp_path / f".{name}.{'0' * 16}.partial" for name in ("pipe", "link"))
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "file")
    remove_abandoned(tmp_path)  # and does not wait at the pipe
    assert names(tmp_path) >= kept | {link.name}
    remove_abandoned(tmp_path / "no such folder")


def test_without_locks_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(partial_files.fcntl, "flock", none)
    young, old = (tmp_path / f".{name}.{'0' * 16}.partial" for name in ("young", "old"))
    for partial in (young, old):
        partial.write_bytes(b"half")
    long_ago = time.time() - 2 * partial_files.ABANDONED_SECONDS
    os.utime(old, (long_ago, long_ago))
    write_file(tmp_path / "file", b"whole")
    remove_abandoned(tmp_path)
    assert names(tmp_path) == {"file", young.name}


def test_a_writer_whose_file_was_taken_for_abandoned_begins_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(partial: Path) -> None:
        partial.mkdir()
        made.append(partial)
        if len(made) < 3:
            remove_abandoned(tmp_path)  # before the writer could lock it

    with locked_partial(tmp_path / "folder", make) as partial:
        assert partial == made[2]
        remove_abandoned(tmp_path)
        assert names(tmp_path) == {partial.name}
    assert names(tmp_path) == set()
