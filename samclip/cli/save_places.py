"""The data set of --save: its format, its folder, and the names of images in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samclip.cli.image_list import STDIN, STDIN_STEM, ImageList
from samclip.cli.output_paths import check_place, check_writable
from samclip.errors import InputError

if TYPE_CHECKING:
    from samclip.runtime.formats.annotations import AnnotationWriter, Format


@dataclass(frozen=True)
class DataSet:
    """What --save and --save-to ask for."""

    kind: Format
    folder: Path

    def check(self) -> None:
        """Raise InputError for a folder that is not empty, or cannot be written to."""
        from samclip.runtime.formats.annotations import check_empty

        check_empty(self.folder)
        check_writable([self.folder], ())

    @contextmanager
    def open(self) -> Iterator[AnnotationWriter]:
        """Make the folder and open the data set for the block; raises InputError, WriteError."""
        from samclip.runtime.formats.annotations import AnnotationWriter

        with AnnotationWriter(self.kind, self.folder) as writer:
            yield writer


def read_save(kind: str | None, folder: str | None) -> DataSet | None:
    """Return what --save asks for, None without it; raises InputError.

    Without --save-to the folder is `samclip-<format>` in the current one.
    """
    if kind is None:
        if folder is not None:
            raise InputError(
                f"--save-to {folder} needs a format. Add --save yolo, or another one of --help."
            )
        return None
    from samclip.runtime.formats.annotations import check_format

    known = check_format(kind)
    place = Path(f"samclip-{known}") if folder is None else check_place(folder, "--save-to")
    return DataSet(known, place)


@dataclass(frozen=True)
class SavePlan:
    """A data set to write, and the name of each image in it."""

    data_set: DataSet
    names: tuple[str, ...]
    sources: tuple[Path | None, ...]

    def add(self, writer: AnnotationWriter, index: int, answer: Any) -> None:
        """Write the answer to an image."""
        writer.add(self.names[index], answer, source=self.sources[index])


def plan_save(images: ImageList, data_set: DataSet) -> SavePlan:
    """Return how images are called in the data set: by their paths below what all share.

    No folder is made yet. Raises InputError for an image that was given twice, and for a folder
    that is not empty or cannot be written to.
    """
    data_set.check()
    files = [Path(os.path.abspath(path)) for path in images.paths if path != STDIN]  # noqa: PTH100
    shared = os.path.commonpath([file.parent for file in files]) if files else ""
    left = iter(files)
    names = tuple(
        f"{STDIN_STEM}.jpg" if path == STDIN else next(left).relative_to(shared).as_posix()
        for path in images.paths
    )
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(
            f"--save takes each image once, and {twice} was given twice. Give it once."
        )
    sources = tuple(None if path == STDIN else path for path in images.paths)
    return SavePlan(data_set, names, sources)
