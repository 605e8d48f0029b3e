"""Sources: folders, lists, tars and parquet files become items with keys; bytes are read later."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from samclip.batch.items import Item, ItemReader, item_table, items_of
from samclip.batch.sources import list_items
from samclip.errors import ImageError, InputError

pa = pytest.importorskip("pyarrow", reason="needs samclip[batch]")
pq = pytest.importorskip("pyarrow.parquet")
PNG = b"\x89PNG\r\n\x1a\n"


def read_all(items: list[Item], column: str | None = None) -> dict[str, bytes | str]:
    """What each item has: its bytes, or the error's text."""
    reader = ItemReader(column)
    found: dict[str, bytes | str] = {}
    for item in items:
        try:
            found[item.key] = reader.read(item)
        except ImageError as error:
            found[item.key] = str(error)
    return found


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def test_a_folder_gives_its_images_and_below_it_theirs(photos: Path) -> None:
    (photos / "deep").mkdir()
    (photos / "red.png").rename(photos / "deep" / "red.png")
    flat = ["blue.png", "cut.png", "green.png", "text.jpg"]
    assert [item.key for item in list_items([photos]).items] == flat
    deep = list_items([photos], recursive=True).items
    assert [item.key for item in deep] == [*flat[:2], "deep/red.png", *flat[2:]]
    assert items_of(item_table(deep)) == deep  # as workers of Ray get them
    assert read_all(deep)["deep/red.png"] == (photos / "deep" / "red.png").read_bytes()


def test_names_that_are_not_utf_8_are_read_and_printable(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(PNG)
    (item,) = items_of(item_table(list_items([tmp_path]).items))
    assert item.key == r"caf\xe9.png"
    assert ItemReader().read(item) == PNG


def test_a_list_has_a_path_on_each_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text(f"photos/red.png\n\n{photos}/blue.png\ngone.png\n")
    items = list_items(["list.txt"]).items
    assert [item.key for item in items] == ["photos/red.png", f"{photos}/blue.png", "gone.png"]
    found = read_all(items)
    assert found["photos/red.png"] == (photos / "red.png").read_bytes()
    assert "No such file" in str(found["gone.png"])


def test_a_tar_is_read_in_place_and_its_tricks_are_keys_or_left_out(tmp_path: Path) -> None:
    victim = tmp_path / "secret"
    victim.write_bytes(b"secret")
    path = tmp_path / "shard-000.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a.jpg", b"first")
        add(archive, "a.json", b"{}")
        add(archive, "../../etc/b.PNG", b"second")
        add(archive, "/etc/c.jpg", b"third")
        add(archive, "a.jpg", b"again")
        add(archive, "link.jpg", type=tarfile.SYMTYPE, linkname=str(victim))
        add(archive, "hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
        add(archive, "pipe.jpg", type=tarfile.FIFOTYPE)
    before = sorted(tmp_path.rglob("*"))
    listing = list_items([tmp_path])
    assert read_all(listing.items) == {
        "shard-000.tar/a.jpg": b"first",
        "shard-000.tar/../../etc/b.PNG": b"second",
        "shard-000.tar//etc/c.jpg": b"third",
        "shard-000.tar/a.jpg#2": b"again",
    }
    assert sorted(tmp_path.rglob("*")) == before
    assert listing.notes == (f"left out of {path}: 4 members that are not images",)


def test_a_tar_that_is_cut_off_fails_alone(tmp_path: Path) -> None:
    whole, cut, odd = (tmp_path / name for name in ("a.tar", "b.tar", "c.tar"))
    for path in (whole, cut):
        with tarfile.open(path, "w") as archive:
            add(archive, "1.jpg", b"1" * 600)
            add(archive, "2.jpg", b"2" * 600)
    os.truncate(cut, 512 + 1024 + 512 + 100)
    odd.write_bytes(b"no tar" * 1000)
    found = read_all(list_items([tmp_path]).items)
    assert found.pop("a.tar/1.jpg") == found.pop("b.tar/1.jpg") == b"1" * 600
    assert found.pop("a.tar/2.jpg") == b"2" * 600
    assert "not a whole tar" in str(found.pop("c.tar"))
    assert "ends after 100 of the 600 bytes" in str(found.pop("b.tar/2.jpg"))
    assert all("not a whole tar" in str(text) for text in found.values())


def test_parquet_has_bytes_paths_or_both(photos: Path, tmp_path: Path) -> None:
    red, blue = ((photos / f"{name}.png").read_bytes() for name in ("red", "blue"))
    both = [{"bytes": red, "path": None}, {"bytes": None, "path": "photos/blue.png"}, None]
    tables = {
        "bytes.parquet": pa.table({"jpg": [red, blue, None], "id": ["r", "b", None]}),
        "paths.parquet": pa.table({"jpg": ["photos/red.png", "gone", "http://x/y.jpg"]}),
        "both.parquet": pa.table({"jpg": both}),
    }
    for name, table in tables.items():
        pq.write_table(table, tmp_path / name, row_group_size=2)
    found = {}
    for name in tables:
        listing = list_items([tmp_path / name])
        assert listing.column == "jpg"
        found |= read_all(listing.items[::-1], listing.column)  # row groups in any order
    for name in tables:
        assert found[f"{name}#0"] == red
    assert found["bytes.parquet#1"] == found["both.parquet#1"] == blue
    assert "nothing is fetched" in str(found["paths.parquet#2"])
    assert "No such file" in str(found["paths.parquet#1"])
    assert "has no image" in str(found["bytes.parquet#2"])
    assert "has no image" in str(found["both.parquet#2"])
    keyed = list_items([tmp_path / "bytes.parquet"], key_column="id").items
    assert [item.key for item in keyed] == ["r", "b", "bytes.parquet#2"]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["gone"], {}, "no file or folder gone"),
        (["empty"], {}, "no image in empty"),
        (["http://example.com/a.tar"], {}, "nothing is fetched"),
        (["a.tar.gz"], {}, "compressed archive"),
        (["a", "b"], {}, "two images have the key 'red.png'"),
        (["t.parquet"], {}, "no column with a usual name"),
        (["t.parquet"], {"column": "pictur"}, r"did you mean 'picture'"),
        (["t.parquet"], {"column": "picture", "key_column": "id"}, "two images have the key '7'"),
        (["odd.parquet"], {}, "not a parquet file"),
    ],
)
def test_sources_that_cannot_be_listed_are_refused(
    sources: list[str],
    options: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "empty"):
        Path(name).mkdir()
    for name in ("a/red.png", "b/red.png", "a.tar.gz", "odd.parquet"):
        Path(name).write_bytes(PNG)
    pq.write_table(pa.table({"picture": [b"1", b"2"], "id": [7, 7]}), "t.parquet")
    with pytest.raises(InputError, match=message):
        list_items(sources, **options)
