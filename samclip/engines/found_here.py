"""Facts that were found out about this machine, kept in the user's cache: a JSON file for each.

They cost seconds to minutes, and decide how graphs are computed. So only a plain file of the user
or the system is read, which nobody else can write to; another one, and a damaged one, is ignored
with a warning, and the fact is found out again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import msgspec

from samclip.disk.cache_folder import open_cache, read_private_file
from samclip.disk.partial_files import remove_abandoned, write_file

FOLDER = "precisions"
MAX_BYTES = 2**20
MODE = 0o600

Fact = TypeVar("Fact", bound=msgspec.Struct)
_logger = logging.getLogger("samclip")


def place_of(name: str) -> Path | None:
    """Return the file of a fact; None where no folder can be used for caches."""
    folder = open_cache(FOLDER)
    return None if folder is None else folder / f"{name}.json"


def read_fact(name: str, kind: type[Fact]) -> Fact | None:
    """Return what is kept under a name; None where nothing is that can be trusted."""
    place = place_of(name)
    if place is None:
        return None
    try:
        return msgspec.json.decode(read_private_file(place, MAX_BYTES), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _logger.warning("%s is ignored, and it is found out again: %s", place, error)
        return None


def keep_fact(name: str, fact: msgspec.Struct) -> None:
    """Keep a fact for later processes; an error of the disk is only logged."""
    place = place_of(name)
    if place is None:
        return
    try:
        remove_abandoned(place.parent)
        write_file(place, msgspec.json.encode(fact), MODE)
    except OSError as error:
        _logger.warning(
            "%s is not kept, and the next process finds it out again: %s",
            place, error.strerror or error,
        )  # fmt: skip
