"""Data sets of one format: the folder, its classes, file names and long files."""

from __future__ import annotations

import io
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from PIL import Image

from samclip.disk.partial_files import as_write_error, result_file
from samclip.disk.safe_names import DistinctNames
from samclip.errors import InputError
from samclip.json_text import escape_match
from samclip.runtime.formats.sample import Sample
from samclip.runtime.pixels.formats import HEAD_BYTES, sniff
from samclip.runtime.results.lettering import UNSAFE
from samclip.runtime.results.mask_files import check_file_name, fit_file_name

QUALITY = 95  # of JPEG, for frames that have no file
LONGEST_SUFFIX = "-99999999.json"  # with the number of an equal name


class Dataset(ABC):
    """A folder of one format, written one sample at a time.

    `classes`: the id of each name, from 0 in the order in which they first came, so that it never
    changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.classes: dict[str, int] = {}
        self._file_names: set[str] = set()
        self._stems = DistinctNames()

    def add(self, sample: Sample) -> None:
        """Write a sample; raises InputError for a file name that came before, WriteError.

        Everything of it is then in files, or in the spool of a format that is one long file.
        """
        if sample.file_name in self._file_names:
            raise InputError(
                f"there is a sample {sample.file_name!r:.200} already. Name each image "
                "differently, as by its path below one folder."
            )
        self._write(sample)
        self._file_names.add(sample.file_name)

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._file_names)

    def close(self) -> None:
        """Complete the folder; raises WriteError."""
        self._complete()

    @abstractmethod
    def _write(self, sample: Sample) -> None:
        """Write a sample."""

    def _complete(self) -> None:  # noqa: B027 - nothing, where each sample has its own files
        """Write what is known last."""

    def _learn(self, names: Iterable[str]) -> bool:
        """Return whether there are new names among these, which get the next ids."""
        before = len(self.classes)
        for name in names:
            self.classes.setdefault(name, len(self.classes))
        return len(self.classes) > before

    def _take_stem(self, sample: Sample) -> str:
        """Return how the names of a sample's files begin: as its own name, no two alike."""
        stem = check_file_name(PurePosixPath(sample.file_name).stem)
        fitted = fit_file_name(stem, LONGEST_SUFFIX).removesuffix(LONGEST_SUFFIX)
        return self._stems.take(fitted)


class Spool:
    """The middle of a long file, whose beginning is known last.

    It is on disk, in a file without a name, so that memory stays flat over a stream.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with as_write_error(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - until `finish`

    def write(self, text: str) -> None:
        """Add text; raises WriteError."""
        with as_write_error(self._folder):
            self._file.write(text.encode())

    def finish(self, path: Path, head: str, tail: str) -> None:
        """Write `head`, what was added and `tail` as the file `path`; raises WriteError."""
        with self._file, result_file(path) as target:
            self._file.seek(0)
            target.write(head.encode())
            shutil.copyfileobj(self._file, target)
            target.write(tail.encode())


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8, whole or not at all; raises WriteError."""
    with result_file(path) as file:
        file.write(text.encode())


def write_picture(sample: Sample, folder: Path, stem: str) -> Path:
    """Copy the sample's image file, or write its pixels as JPEG; return the path.

    A copy keeps its bytes and gets the suffix of its format. Raises WriteError, and InputError
    where the file is no longer there.
    """
    if sample.source is None:
        encoded = io.BytesIO()
        Image.fromarray(sample.image).save(encoded, "JPEG", quality=QUALITY, subsampling=0)
        data, suffix = encoded.getvalue(), ".jpg"
    else:
        try:
            data = sample.source.read_bytes()
        except OSError as error:
            raise InputError(
                f"the image {sample.source} cannot be copied: {error.strerror}. Restore it, or "
                "give no source: its pixels are then written."
            ) from error
        kind = sniff(data[:HEAD_BYTES])
        suffix = sample.source.suffix or ("" if kind is None else f".{kind.lower()}")
    path = folder / f"{stem}{suffix}"
    with result_file(path) as file:
        file.write(data)
    return path


def in_one_line(text: str) -> str:
    """Return a name without characters that break lines or that XML and YAML do not take."""
    return UNSAFE.sub(escape_match, text)
