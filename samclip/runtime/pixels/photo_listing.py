"""The images in a folder, judged by their content, and what else lies there, by reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samclip.errors import ImageError
from samclip.runtime.pixels.formats import describe, read_head, sniff
from samclip.runtime.pixels.image import SUFFIXES

SHOWN_NAMES = 3  # of what was left out for one reason
SHOWN_LETTERS = 40  # of such a name
FOLDERS = "folders, which are not searched"
LINKS = "links that lead nowhere"
SPECIAL = "pipes, sockets or devices"
UNREADABLE = "files that cannot be read"
HIDDEN = "hidden images"
RAW = "camera raw files"
OTHERS = "files that are not images"
# Camera raw that is TIFF by its first bytes; what a TIFF decoder finds in it may be a thumbnail.
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef"}
    | {".nrw", ".pef", ".rwl", ".sr2", ".srf", ".srw"}
)


@dataclass(frozen=True)
class PhotoListing:
    """Images in the order of their paths; `left_out`: names within the folder, by reason."""

    folder: Path
    paths: tuple[Path, ...]
    left_out: Mapping[str, Sequence[str]]

    @property
    def counts(self) -> dict[str, int]:
        """How many were left out, by reason."""
        return {reason: len(names) for reason, names in self.left_out.items()}

    def describe_left_out(self) -> str:
        """Return one line about what was left out: counts by reason and a few names; may be ""."""
        parts = (
            f"{reason}: {len(names):,} ({_few(names)})" for reason, names in self.left_out.items()
        )
        found = "; ".join(parts)
        return f"left out of {self.folder}: {found}" if found else ""


def list_photos(folder: Path, *, below: bool = False) -> PhotoListing:
    """List the images directly in `folder`; those of its subfolders too when `below`.

    A file is an image if its first bytes say so, whatever its name; one that is called like an
    image is listed as well, so that what is wrong with it is reported when it is read. Hidden
    files are left out. A folder that cannot be listed raises ImageError.
    """
    paths: list[Path] = []
    left_out: dict[str, list[str]] = {}
    for path in sorted(_entries(folder, below)):
        reason = reason_to_leave_out(path)
        if reason is None:
            paths.append(path)
        elif reason:
            left_out.setdefault(reason, []).append(path.relative_to(folder).as_posix())
    return PhotoListing(folder, tuple(paths), left_out)


def reason_to_leave_out(path: Path) -> str | None:
    """Return why a file of a folder is not taken for an image; None if it is, "" if nobody asks."""
    hidden = path.name.startswith(".")
    try:
        reason = _reason_by_kind(path, path.stat().st_mode, hidden)
    except FileNotFoundError:
        reason = LINKS if path.is_symlink() else ""
    except OSError:  # no permission, or a link in a circle
        reason = UNREADABLE
    return "" if hidden and reason not in {None, HIDDEN} else reason


def _reason_by_kind(path: Path, mode: int, hidden: bool) -> str | None:
    """Judge what exists at a path; raises OSError when it cannot be read."""
    if stat.S_ISDIR(mode):
        return FOLDERS
    if not stat.S_ISREG(mode):
        return SPECIAL
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and not hidden:
        return None
    if suffix in RAW_SUFFIXES:
        return RAW
    head = read_head(path)
    if sniff(head):
        return HIDDEN if hidden else None
    kind = describe(head)
    return f"{kind}, which is not read" if "image" in kind or "camera" in kind else OTHERS


def _entries(folder: Path, below: bool) -> Iterator[Path]:
    """Yield what is in a folder, and in its subfolders if `below`; links to folders stay links."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    path = place / entry.name
                    is_folder = below and entry.is_dir(follow_symlinks=False)
                    if not is_folder:
                        yield path
                    elif not entry.name.startswith("."):
                        waiting.append(path)
        except OSError as error:
            raise ImageError(
                f"the folder {place} cannot be listed: {error.strerror}. Correct its permissions."
            ) from error


def _few(names: Sequence[str]) -> str:
    shown = [
        name
        if len(name) <= SHOWN_LETTERS
        else f"{name[: SHOWN_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
        for name in names[:SHOWN_NAMES]
    ]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
