import os
import time
from pathlib import Path

import pytest

from samclip.disk.plain_files import open_plain, read_plain
from samclip.errors import ConfigError, InputError


def test_plain_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_plain(tmp_path / "link", 5, "the list") == b"12345"
    with open_plain(tmp_path / "a", "the list") as (file, size):
        assert (file.read(2), size) == (b"12", 5)
    with pytest.raises(InputError, match=r"the list .*a has 5 bytes or more; at most 4"):
        read_plain(tmp_path / "a", 4, "the list")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "is a pipe; expected a plain file"),
        ("/dev/zero", "is a device; expected a plain file"),
        ("folder", "is a folder; expected a plain file"),
        ("missing", "cannot be read: No such file"),
        ("dangling", "cannot be read: No such file"),
        ("nul\0", "cannot be read: embedded null"),
    ],
)
def test_pipes_devices_and_folders_are_refused_at_once(
    kind: str, message: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("gone")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        read_plain(tmp_path / kind, 100, "the list", ConfigError)
    assert time.monotonic() - started < 5


def test_what_the_system_states_of_a_size_is_not_believed() -> None:
    with pytest.raises(InputError, match="at most 3 are read"):
        read_plain(Path("/proc/self/status"), 3, "the list")  # its size is stated as 0
