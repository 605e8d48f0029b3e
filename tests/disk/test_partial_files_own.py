from __future__ import annotations

import os
from pathlib import Path

import pytest

from samclip.disk.partial_files import is_safely_owned, open_without_links

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no FIFOs, and permissions of another kind")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="link"):
        open_without_links(tmp_path / "link")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.close(open_without_links(tmp_path / "fifo"))


def test_new_files_have_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    os.close(open_without_links(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("mode", "own"), [(0o600, True), (0o664, True), (0o606, False)])
def test_a_file_that_everybody_may_write_to_is_not_safely_owned(
    mode: int, own: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    assert is_safely_owned(path.stat()) is own


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_not_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 12345, -1)
    assert not is_safely_owned(path.stat())
