import errno
from pathlib import Path

import pytest

from samclip.disk.places import try_place


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"before")
    for name in ("there", "new"):
        try_place(tmp_path / name, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_bytes() == b"before"


@pytest.mark.parametrize("folder", ["/proc", "/sys", "/nonexistent"])
def test_places_where_nothing_can_be_written(folder: str) -> None:
    with pytest.raises(OSError, match=r"No such file|[Pp]ermission|Read-only|not permitted"):
        try_place(Path(folder) / "bundle")


def test_a_disk_without_room(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="bytes are needed") as caught:
        try_place(tmp_path / "bundle", 2**60)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
