"""The items of a job: images of folders and lists, members of tars, rows of parquet files."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.batch.items import Item, printable
from samclip.batch.packages import import_pyarrow
from samclip.disk.paths import is_address, user_path
from samclip.disk.user_files import read_user_text
from samclip.errors import InputError, did_you_mean
from samclip.runtime.pixels.image import SUFFIXES
from samclip.runtime.pixels.photo_listing import list_photos

TAR, PARQUET, LIST = ".tar", ".parquet", ".txt"
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.bz2", ".tbz2")
MAX_LIST_BYTES = 2**30
# Columns that are taken for that of the images, in this order, where none is named.
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content")
PATH_COLUMNS = ("path", "image_path", "file_name", "filename", "file", "filepath")


@dataclass(frozen=True)
class Listing:
    """The items of a job in order; `column`: that of parquet files; `notes`: what was left out."""

    items: list[Item]
    column: str | None = None
    notes: tuple[str, ...] = ()


def list_items(
    sources: Sequence[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    column: str | None = None,
    key_column: str | None = None,
) -> Listing:
    """List the images of `sources`; nothing of an image is read.

    A source is a folder, whose images are taken, and where it has none its tars, else its parquet
    files; a tar in WebDataset's form; a parquet file with the bytes or paths of images; a text
    file with a path on each line, relative to the working folder; an image; or a pattern such as
    "shards/*.tar". Keys are paths within the folder, "shard.tar/member.jpg" and "file.parquet#7",
    or what `key_column` has. `recursive`: search subfolders. `column`: that of parquet files, None
    for a name that is usual.

    An archive that cannot be read is an item that fails. Raises InputError for sources that are
    not there, without images, or with a key twice; CapabilityError without pyarrow.
    """
    lister = _Lister(recursive, column, key_column)
    for source in sources:
        for path in _expand(source):
            lister.add(path)
    items = lister.items
    if not any(not item.fault for item in items):
        given = ", ".join(printable(os.fspath(source)) for source in sources)
        faults = "".join(f" {item.fault}" for item in items[:3])
        raise InputError(f"there is no image in {given}.{faults} Check the paths.")
    _check_keys(items)
    return Listing(items, lister.column, tuple(lister.notes))


def _expand(source: str | os.PathLike[str]) -> list[Path]:
    """Return the path of a source, or the paths that fit a pattern; raises InputError for none."""
    text = os.fspath(source)
    if is_address(text):
        raise InputError(f"{text} is an address; nothing is fetched. Download it first.")
    path = user_path(text, "the source")
    if glob.has_magic(text) and not os.path.lexists(path):
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        if found:
            return [Path(each) for each in found]
    if not path.exists():
        raise InputError(f"there is no file or folder {printable(text)}. Check the path.")
    return [path]


def _check_keys(items: Sequence[Item]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item.key, item)
        if other is not item:
            places = " and ".join(printable(each.path) for each in (other, item))
            raise InputError(
                f"two images have the key {item.key!r}, in {places}; rows of a job are found "
                "by it. Leave out one source, give a folder that holds both, or name another "
                "column of keys."
            )


class _Lister:
    """Collects the items of sources."""

    def __init__(self, recursive: bool, column: str | None, key_column: str | None) -> None:
        self.column = column
        self.items: list[Item] = []
        self.notes: list[str] = []
        self._recursive = recursive
        self._key_column = key_column

    def add(self, path: Path) -> None:
        if path.is_dir():
            self._add_folder(path)
        else:
            self._add_file(path, path.name)

    def _add_folder(self, folder: Path) -> None:
        listing = list_photos(folder, below=self._recursive)
        for path in listing.paths:
            key = printable(path.relative_to(folder).as_posix())
            self.items.append(Item(key, os.fsencode(path.absolute())))
        if listing.paths:
            self.notes += filter(None, [listing.describe_left_out()])
            return
        for suffix in (TAR, PARQUET):
            pattern = f"**/*{suffix}" if self._recursive else f"*{suffix}"
            found = sorted(each for each in folder.glob(pattern) if each.is_file())
            for path in found:
                self._add_file(path, path.relative_to(folder).as_posix())
            if found:
                return
        if not self._recursive:
            self.notes.append(f"{folder} has no image, tar or parquet file directly in it")

    def _add_file(self, path: Path, name: str) -> None:
        lower = path.name.lower()
        if lower.endswith(PACKED):
            raise InputError(
                f"{path} is a compressed archive, whose members cannot be read one by one. Unpack "
                "its compression and give the tar: gunzip, xz -d or zstd -d."
            )
        suffix = path.suffix.lower()
        place = os.fsencode(path.absolute())
        if suffix == TAR:
            self._add_tar(path, printable(name), place)
        elif suffix == PARQUET:
            self._add_parquet(path, printable(name), place)
        elif suffix == LIST:
            lines = read_user_text(path, MAX_LIST_BYTES, "the list of images").splitlines()
            for line in filter(None, map(str.strip, lines)):
                self.items.append(Item(printable(line), os.fsencode(Path(line).absolute())))
        else:
            self.items.append(Item(printable(name), place))

    def _add_tar(self, path: Path, name: str, place: bytes) -> None:
        """Add the images of a tar by their headers alone; links and other members are left out."""
        counts: dict[str, int] = {}
        left_out = 0
        try:
            with tarfile.open(path, "r:") as archive:
                for member in _members(archive):
                    suffix = Path(member.name).suffix.lower()
                    if not member.isreg() or member.issparse() or suffix not in SUFFIXES:
                        left_out += 1
                        continue
                    key = f"{name}/{printable(member.name)}"
                    counts[key] = counts.get(key, 0) + 1
                    if counts[key] > 1:  # a tar may have a name twice
                        key = f"{key}#{counts[key]}"
                    self.items.append(Item(key, place, member.offset_data, member.size))
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            fault = f"{path} is not a whole tar: {error}. Copy or make it again."
            self.items.append(Item(name, place, fault=fault))
        if left_out:
            self.notes.append(f"left out of {path}: {left_out:,} members that are not images")

    def _add_parquet(self, path: Path, name: str, place: bytes) -> None:
        pa = import_pyarrow()
        try:
            with pa.parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                self.column = choose_column(names, self.column, str(path))
                keys = None
                if self._key_column is not None:
                    check_column(names, self._key_column, str(path))
                    keys = file.read([self._key_column]).column(0).to_pylist()
                for row in range(file.metadata.num_rows):
                    given = None if keys is None else keys[row]
                    key = f"{name}#{row}" if given is None else printable(str(given))
                    self.items.append(Item(key, place, row=row))
        except (pa.ArrowException, OSError) as error:
            fault = f"{path} is not a parquet file that can be read: {error}. Copy it again."
            self.items.append(Item(name, place, fault=fault))


def choose_column(present: Sequence[str], wanted: str | None, where: str) -> str:
    """Return the column of images, the wanted one or one of a usual name; raises InputError.

    `where`: what has the columns `present`, the begin of the message.
    """
    if wanted is not None:
        return check_column(present, wanted, where)
    for name in IMAGE_COLUMNS + PATH_COLUMNS:
        if name in present:
            return name
    raise InputError(
        f"{where} has no column with a usual name of images, such as "
        f"{', '.join(IMAGE_COLUMNS[:3])} or {PATH_COLUMNS[0]}; it has {', '.join(present[:20])}. "
        "Name the column of the images' bytes, pixels or paths."
    )


def check_column(present: Sequence[str], wanted: str, where: str) -> str:
    """Return a column that is there; raises InputError for another one."""
    if wanted not in present:
        raise InputError(
            f"{where} has no column {wanted!r}{did_you_mean(wanted, present)}, only "
            f"{', '.join(present[:20])}. Name one of these."
        )
    return wanted


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar without keeping them in memory."""
    while (member := archive.next()) is not None:
        yield member
        archive.members.clear()  # type: ignore[attr-defined]
