"""Files that people name: whatever the name leads to, they are read at once, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from samclip.disk.user_files import read_user_file, read_user_text
from samclip.errors import ConfigError

LIMIT = 1000


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "No such file"),
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
    with pytest.raises(ConfigError, match=said) as raised:
        read_user_file(path, LIMIT, "the report", ConfigError)
    assert str(raised.value).startswith(f"the report {path} ")


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
