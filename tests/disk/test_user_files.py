"""Files that people name: whatever the name leads to, they are read at once, or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from samclip.disk.user_files import open_user_file, read_user_file, read_user_text
from samclip.errors import ConfigError, ImageError, InputError

LIMIT = 1000


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "cannot be read: No such file"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "cannot be read: No such file"),
    "a pipe": (os.mkfifo, "is a pipe; expected a plain file"),
    "a folder": (Path.mkdir, "is a folder; expected a plain file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "is a device; expected"),
    "a loop": (lambda path: path.symlink_to(path), "cannot be read"),
    "a terabyte of holes": (sparse, "has 1,099,511,627,776 bytes; at most 1,000 are read"),
    "too many bytes": (lambda path: path.write_bytes(b"x" * 1001), "has 1,001 bytes"),
    # a plain file that says that it has no bytes, and gives more
    "a file without a size": (lambda path: path.symlink_to("/proc/self/smaps"), "more than 1,000"),
}


@pytest.mark.parametrize(("make", "said"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_such_file(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    make(path)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=said) as raised:
        read_user_file(path, LIMIT, "the report", ConfigError)
    assert time.monotonic() - started < 5
    assert str(raised.value).startswith(f"the report {path} ")
    assert str(raised.value).count(str(path)) == 1


def test_a_name_with_a_nul(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        read_user_file(tmp_path / "nul\0", LIMIT, "the list", ConfigError)


def test_files_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(b"\xef\xbb\xbf" + "é".encode() * 400)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_user_file(link, LIMIT) == path.read_bytes()
    assert read_user_text(link, LIMIT) == "é" * 400
    path.write_bytes(b"a\xff")
    with pytest.raises(ConfigError, match="not UTF-8 text: invalid start byte at byte 1"):
        read_user_text(path, LIMIT, error=ConfigError)


def test_a_file_is_opened_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with open_user_file(tmp_path / "a", "the list") as (file, size):
        assert (file.read(2), size) == (b"12", 5)
    assert file.closed
    with pytest.raises(InputError, match=r"the list .*a has 5 bytes; at most 4"):
        read_user_file(tmp_path / "a", 4, "the list")


def test_errors_while_a_file_is_open(tmp_path: Path) -> None:
    """What cannot be read is the file's error; what the block says itself passes."""
    (tmp_path / "a").touch()
    message = r"the list .*a cannot be read: Input/output error"
    with (
        pytest.raises(ConfigError, match=message),
        open_user_file(tmp_path / "a", "the list", ConfigError),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    for own in (ImageError("of the block"), KeyError("of the block")):
        with (
            pytest.raises(type(own), match=r"^'?of the block'?$"),
            open_user_file(tmp_path / "a", "the list", ConfigError),
        ):
            raise own
