"""Paths of the pictures and masks that a task writes, planned before a model is loaded.

No two images share a path, and nothing is replaced but what an earlier run wrote.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from samclip.cli.given_paths import working_folder_exists
from samclip.cli.image_list import ImageList
from samclip.disk.paths import LONGEST_NAME, is_address, user_path
from samclip.disk.safe_names import DistinctNames
from samclip.errors import ImageError, InputError, WriteError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})  # results.drawing can save these
HINTS = {  # what to do for files of other kinds
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "For JSON use --json > FILE."),
    **dict.fromkeys(
        (".npy", ".npz", ".tif", ".tiff", ".bmp"), "For masks as files use --masks FOLDER."
    ),
}


def plan_pictures(
    images: ImageList, output: str | os.PathLike[str] | None, task: str
) -> tuple[Path, ...]:
    """Return the path of the picture for each image, in order; no folder is made yet.

    `output` is a file when it ends like a picture, else a folder. None stands for the current
    folder, or for `samclip-<task>` inside it when there may be many images. In a folder the names
    are `<stem>.<task>.png`, numbered where two would be equal. Raises InputError for one file and
    many images, for a format or a folder that cannot be written, and when a picture would replace
    an image or any file that samclip did not write.
    """
    if output is None:
        place, is_file = Path(f"samclip-{task}") if images.many else Path(), False
    else:
        place, is_file = _read_output(os.fspath(output))
    if is_file and images.many:
        raise InputError(
            f"--output {place} is one file, and there may be many images. Give a folder."
        )
    names = (f"{stem}.{task}.png" for stem in unique_stems(images))
    pictures = (place,) if is_file else tuple(place / name for name in names)
    _check_replaced(pictures, images, "--output")
    check_writable({picture.parent for picture in pictures}, pictures)
    return pictures


def unique_stems(images: ImageList) -> Iterator[str]:
    """Return the stem of each image's file; equal ones get -2, -3 and so on.

    Stems that differ in case only count as equal, as in some file systems.
    """
    names = DistinctNames()
    for index in range(len(images.paths)):
        yield names.take(images.stem(index))


def check_name_length(path: Path, image: Path) -> None:
    """Raise ImageError when an image's picture or mask would have too long a name."""
    length = len(os.fsencode(path.name))
    if length > LONGEST_NAME:
        raise ImageError(
            f"the file written for {image} would have a name of {length} bytes; at most "
            f"{LONGEST_NAME} are possible. Give the image a shorter name, or --output FILE for it "
            "alone."
        )


def make_folder(folder: Path) -> None:
    """Make a folder for pictures, and the folders around it; raises WriteError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"the folder {folder} could not be made: {error.strerror}. Make room, correct "
            "permissions, or give another --output."
        ) from error


def _read_output(text: str) -> tuple[Path, bool]:
    """Return the path that --output means, and whether it is a file; raises InputError."""
    path = check_place(text, "--output")
    if _is_folder(path, text):
        return path, False
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return path, True
    known = ", ".join(sorted(PICTURE_SUFFIXES))
    hint = HINTS.get(suffix, "Choose one of these.")
    raise InputError(
        f"--output {text}: pictures are written as {known}. {hint} For a folder of this name, end "
        f"it with a slash: {text}/"
    )


def check_place(text: str, option: str) -> Path:
    """Return the path of a file or folder to write, its home expanded; raises InputError."""
    if not text:
        raise InputError(f'{option} is empty: "". Give a file or a folder.')
    if text == "-":
        raise InputError(f"{option} - is not possible: pictures are not printed. Give a file.")
    if is_address(text):
        raise InputError(
            f"{option} {text} is an address. Write to a file or a folder, and upload that."
        )
    return user_path(text, option)


def check_file(place: Path, text: str, option: str) -> Path:
    """Return a file to write whose folder must be there; raises InputError, before a model runs."""
    check_writable([place.parent], [place])
    if not place.parent.is_dir():
        raise InputError(f"{option} {text}: there is no folder {place.parent}. Make it first.")
    return place


@dataclass(frozen=True)
class MaskFolder:
    """The folder of --masks; for each image the stem of its files, and those of an earlier run."""

    folder: Path
    stems: tuple[str, ...]
    earlier: dict[str, tuple[Path, ...]]

    def save(
        self, index: int, image: Path, write: Callable[[Path, str], Sequence[Path]]
    ) -> tuple[Path, ...]:
        """Let `write` put files of an image into the folder; return their paths.

        Files of that image from an earlier run are replaced, also those of masks that it no
        longer has. Raises ImageError for a name that is too long, WriteError.
        """
        stem = self.stems[index]
        check_name_length(self.folder / f"{stem}.00000.png", image)
        written = tuple(write(self.folder, stem))
        for path in set(self.earlier.get(stem, ())) - set(written):
            path.unlink(missing_ok=True)
        return written


def plan_masks(images: ImageList, folder: str | os.PathLike[str], numbered: bool) -> MaskFolder:
    """Return where the masks of each image go; no folder is made yet.

    `numbered`: the files are `STEM.000.png` and so on, else one `STEM.png`. Raises InputError when
    the folder cannot be written to, or has files of such names that samclip did not write.
    """
    text = os.fspath(folder)
    place = check_place(text, "--masks")
    if not _is_folder(place, text):
        raise InputError(
            f"--masks {text} has the name of a file, and masks need a folder. For a folder of this "
            f"name, end it with a slash: {text}/"
        )
    stems = tuple(unique_stems(images))
    earlier = _files_of(place, stems, numbered)
    _check_replaced([path for paths in earlier.values() for path in paths], images, "--masks")
    check_writable([place], ())
    return MaskFolder(place, stems, earlier)


def _files_of(folder: Path, stems: Iterable[str], numbered: bool) -> dict[str, tuple[Path, ...]]:
    """List the files in a folder that have the names of masks, by stem."""
    pattern = re.compile(r"(.+)\.\d{3,}\.png" if numbered else r"(.+)\.png", re.DOTALL)
    wanted = set(stems)
    found: dict[str, list[Path]] = {}
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:  # not there yet, or reported when it is written to
        names = []
    for name in names:
        match = pattern.fullmatch(name)
        if match is not None and match[1] in wanted:
            found.setdefault(match[1], []).append(folder / name)
    return {stem: tuple(paths) for stem, paths in found.items()}


def _is_folder(path: Path, text: str) -> bool:
    """Whether the `path` that was given as `text` is to be a folder.

    That is what exists as one, what ends in a slash, and what has no suffix of letters.
    """
    is_written_so = text.endswith(("/", os.sep))
    return is_written_so or path.is_dir() or not re.search("[a-z]", path.suffix.lower())


def _check_replaced(paths: Sequence[Path], images: ImageList, option: str) -> None:
    """Raise InputError when a file to write is an image, or one that samclip did not write."""
    resolve = cache(os.path.realpath)  # of a folder: many files lie in few

    def place_of(path: Path) -> str:
        return str(Path(resolve(path.parent), path.name))

    sources = set(map(place_of, images.paths))
    taken = [place for place in map(place_of, paths) if place in sources or os.path.lexists(place)]
    if not taken:
        return
    identities = set(filter(None, map(_identity, images.paths)))
    for place in taken:
        if place in sources or _identity(place) in identities:
            raise InputError(f"the picture would replace the image {place}. Give another {option}.")
        if not _may_be_replaced(Path(place)):
            raise InputError(
                f"{place} is there already, and samclip did not write it. Remove it, or give "
                f"another {option}."
            )


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return device and number of a file: the same for all its links; None where there is none."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _may_be_replaced(path: Path) -> bool:
    from samclip.runtime.results.own_pictures import may_be_replaced

    try:
        return may_be_replaced(path)
    except OSError:
        return False


def check_writable(folders: Iterable[Path], pictures: Sequence[Path]) -> None:
    """Raise InputError, before the model runs, when a folder cannot be written to.

    No folder is made. Partial pictures that an earlier, killed run left are removed.
    """
    from samclip.disk.partial_files import remove_abandoned

    names = {picture.name for picture in pictures}
    for folder in folders:
        try:
            full = folder.absolute()
            nearest = next(place for place in (full, *full.parents) if place.exists())
            with tempfile.TemporaryFile(dir=nearest):
                remove_abandoned(full, names)
        except OSError as error:
            reason = error.strerror if working_folder_exists() else "the working folder was deleted"
            raise InputError(
                f"nothing can be written to {folder}: {reason}. Give another --output, or --json "
                "for no picture."
            ) from error
