import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from photo_sources import write_photos

from samclip.errors import ImageError, InputError
from samclip.merge.data import shards
from samclip.merge.data.photo_sources import FolderSource
from samclip.merge.data.shards import INDEX_SUFFIX, ShardSource, shard_index

Change = Callable[[tarfile.TarInfo], None]


def pack(folder: Path, shard: Path, mode: str = "w") -> Path:
    with tarfile.open(shard, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return shard


def add_member(shard: Path, name: str, change: Change | None = None, data: bytes = b"x") -> Path:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if change is not None:
        change(info)
    with tarfile.open(shard, "w") as tar:
        tar.addfile(info, BytesIO(data))
    return shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_photos(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    (folder / "a.json").write_text("{}")
    (folder / "a.txt").write_text("a caption")
    return folder


def test_photos_of_a_shard_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    from_shard = ShardSource([pack(folder, tmp_path / "0.tar")])
    from_folder = FolderSource(folder)
    assert len(from_shard) == 3
    for index in (2, 0, 1):  # in any order
        assert from_shard.key(index) == from_folder.key(index)
        assert np.array_equal(from_shard.photo(index), from_folder.photo(index))


def test_a_photo_in_two_shards_counts_once(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "0.tar")
    write_photos(folder, ["b.png"])  # now the same as a.png
    second = pack(folder, tmp_path / "1.tar")
    assert len(ShardSource([first, second])) == 3


def test_the_list_is_kept_beside_the_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = pack(folder, tmp_path / "0.tar")
    made = shard_index(shard)
    monkeypatch.setattr("samclip.merge.data.shards.tarfile", None)  # cannot be read again
    assert shard_index(shard) == made
    assert len(made.members) == 3


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1}', b'{"version": 2}'])
def test_an_unusable_list_is_made_again(folder: Path, tmp_path: Path, content: bytes) -> None:
    shard = pack(folder, tmp_path / "0.tar")
    made = shard_index(shard)
    kept = shard.with_name(shard.name + INDEX_SUFFIX)
    kept.write_bytes(content)
    assert shard_index(shard) == made
    assert kept.read_bytes() not in (content, b"")


def test_a_shard_that_changed_is_listed_again(folder: Path, tmp_path: Path) -> None:
    shard = pack(folder, tmp_path / "0.tar")
    source = ShardSource([shard])
    (folder / "c.png").unlink()
    pack(folder, shard)
    assert len(ShardSource([shard])) == 2
    with pytest.raises(ImageError, match="changed since it was listed"):
        source.photo(2)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"\xff": 1}', b"[" * 100_000])
def test_a_damaged_list_is_made_again(folder: Path, tmp_path: Path, data: bytes) -> None:
    shard = pack(folder, tmp_path / "0.tar")
    assert len(ShardSource([shard])) == 3
    (listed,) = tmp_path.glob("*json")
    listed.write_bytes(data)
    assert len(ShardSource([shard])) == 3
    assert listed.read_bytes() != data


def test_a_folder_that_is_not_writable_costs_only_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shards, "write_file", refuse)
    assert len(ShardSource([pack(folder, tmp_path / "0.tar")])) == 3
    assert not list(tmp_path.glob("*json"))


def link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


def hard_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.LNKTYPE, "a.jpg", 0


def fifo(info: tarfile.TarInfo) -> None:
    info.type, info.size = tarfile.FIFOTYPE, 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("/etc/photo.jpg", None, "leaves the archive"),
        ("../photo.jpg", None, "leaves the archive"),
        ("a/../../photo.jpg", None, "leaves the archive"),
        ("photo.jpg", link, "neither a file nor a folder"),
        ("photo.jpg", hard_link, "neither a file nor a folder"),
        ("photo.jpg", fifo, "neither a file nor a folder"),
    ],
)
def test_members_of_no_honest_shard_are_refused(
    tmp_path: Path, name: str, change: Change | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ShardSource([add_member(tmp_path / "0.tar", name, change)])


def test_a_member_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    info = tarfile.TarInfo("photo.jpg")
    info.size = 2**30
    shard.write_bytes(info.tobuf())
    os.truncate(shard, 2**30 + 1024)  # sparse: takes no room
    with pytest.raises(InputError, match="1,073,741,824 bytes, at most 536,870,912"):
        ShardSource([shard])


def test_an_image_of_too_many_pixels_is_refused_when_it_is_read(tmp_path: Path) -> None:
    header = b"P6 70000 70000 255\n"
    source = ShardSource([add_member(tmp_path / "0.tar", "photo.png", data=header)])
    with pytest.raises(ImageError, match="70000 x 70000 pixels"):
        source.photo(0)


def test_shards_that_cannot_be_read_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no shard"):
        ShardSource([tmp_path / "absent.tar"])
    with pytest.raises(InputError, match="must be unpacked"):
        ShardSource([pack(folder, tmp_path / "0.tar.gz", "w:gz")])
    cut = pack(folder, tmp_path / "cut.tar")
    os.truncate(cut, 1600)
    with pytest.raises(InputError, match="cannot be read as a plain tar file"):
        ShardSource([cut])
    with pytest.raises(InputError, match="hold no image"):
        ShardSource([add_member(tmp_path / "1.tar", "notes.txt")])


def test_too_many_members_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samclip.merge.data.shards.MAX_MEMBERS", 3)
    with pytest.raises(InputError, match="beyond the first 3 members"):
        ShardSource([pack(folder, tmp_path / "0.tar")])
