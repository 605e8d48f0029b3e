"""The names to look for: `--names` on the command line, `--labels` from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samclip.errors import VocabularyError

MAX_LABELS_BYTES = 10_000_000


def read_names(names: Sequence[str] | None, labels: Path | None) -> list[str] | None:
    """Join the comma-separated `names` and the lines of `labels`; None when neither is given.

    Order is kept; empty entries are dropped. Raises VocabularyError when nothing is left, or when
    the file cannot be read as UTF-8 text.
    """
    if not names and labels is None:
        return None
    found = [part.strip() for text in names or () for part in text.split(",")]
    if labels is not None:
        found += [line.strip() for line in _read(labels.expanduser()).splitlines()]
    found = [name for name in found if name]
    if not found:
        raise VocabularyError(
            'no name was given; expected at least one, as in --names "car,bus", or one a line in '
            "the file of --labels."
        )
    return found


def require_names(names: list[str] | None, task: str) -> list[str]:
    """Return `names`, or raise VocabularyError when the task cannot do without."""
    if names is None:
        raise VocabularyError(
            f'{task} needs names to choose from: add --names "car,bus" or --labels FILE.'
        )
    return names


def _read(path: Path) -> str:
    """Read a UTF-8 text file, a byte-order mark included, of a size that a list of names has."""
    if not path.is_file():
        raise VocabularyError(f"there is no file {path} to read names from (--labels).")
    if path.stat().st_size > MAX_LABELS_BYTES:
        raise VocabularyError(
            f"{path} has {path.stat().st_size:,} bytes; a list of names may have "
            f"{MAX_LABELS_BYTES:,}. Give a shorter one (--labels)."
        )
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}. Save it as UTF-8."
        ) from error
