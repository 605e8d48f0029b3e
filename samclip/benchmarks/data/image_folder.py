"""Photos with one class each, in ImageNet's layouts, and samples spread over a data set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from samclip.cli.arguments import read_lines
from samclip.disk.user_files import read_user_file
from samclip.errors import InputError, did_you_mean
from samclip.runtime.pixels.decode import MAX_IMAGE_BYTES
from samclip.runtime.pixels.photo_listing import PhotoListing, list_photos

_HASH = re.compile(r"[0-9a-f]{64}")
_FLAT = re.compile(r"(?P<key>n\d{8})_(?P<name>.+)")
T = TypeVar("T")


@dataclass(frozen=True)
class ClassPhoto:
    """A photo and its class, an index into the folder's classes."""

    path: Path
    category: int


@dataclass(frozen=True)
class ImageFolder:
    """Photos in the order of their paths; K classes: sorted `keys` and their `names`.

    `listing`: what lies in the folder, with what is not a photo.
    """

    path: Path
    keys: tuple[str, ...]
    names: tuple[str, ...]
    photos: tuple[ClassPhoto, ...]
    listing: PhotoListing


def read_image_folder(folder: Path, classes: Path | None = None) -> ImageFolder:
    """Read `<wnid>_<name>.jpg` files, or a folder for each class.

    `classes`: a text file with one class a line, its key (WordNet's id, or the class's folder) and
    its name; of several names with commas between, as WordNet lists synonyms, the first is taken.
    Without it, names come from the files' or folders' own. Raises InputError.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}. Give one with photos in it.")
    listing = list_photos(folder, below=True)
    found = {path: _key_and_name(path, folder) for path in listing.paths}
    if not found:
        raise InputError(
            f"{folder} holds no photo; expected files <wnid>_<name>.jpg, or a folder a class."
        )
    own = dict(found.values())
    named = own if classes is None else _read_classes(classes)
    keys = tuple(sorted(named))
    places = {key: place for place, key in enumerate(keys)}
    if missing := sorted(set(own) - set(keys)):
        raise InputError(
            f"{classes} has no class {missing[0]!r}{did_you_mean(missing[0], keys)}, of which "
            f"{folder} has photos. Add a line for each class."
        )
    photos = tuple(ClassPhoto(path, places[key]) for path, (key, _) in found.items())
    return ImageFolder(folder, keys, tuple(named[key] for key in keys), photos, listing)


def keep_only(folder: ImageFolder, listing: Path) -> ImageFolder:
    """Keep the photos that a text file lists, one a line.

    By name, by path below the folder, or by the SHA-256 of the file, as samclip-merge writes
    `held_back.txt`; that list may name photos of other folders too. The classes stay. Raises
    InputError for a file that is not there.
    """
    listed = set(read_lines(listing))
    hashes = {line for line in listed if _HASH.fullmatch(line)}
    wanted = listed - hashes
    kept, met = [], set()
    for photo in folder.photos:
        names = {photo.path.name, photo.path.relative_to(folder.path).as_posix()}
        matches = bool(names & wanted)
        if not matches and hashes:
            data = read_user_file(photo.path, MAX_IMAGE_BYTES, "the photo")
            matches = hashlib.sha256(data).hexdigest() in hashes
        if matches:
            kept.append(photo)
            met |= names & wanted
    if lacking := sorted(wanted - met):
        raise InputError(
            f"{listing} lists {lacking[0]!r}, and {len(lacking) - 1} more, that {folder.path} does "
            "not have. Give names of its files."
        )
    if not kept:
        raise InputError(f"{listing} lists no photo of {folder.path}. Give the list of its photos.")
    return replace(folder, photos=tuple(kept))


def _key_and_name(path: Path, folder: Path) -> tuple[str, str]:
    inside = path.relative_to(folder)
    if len(inside.parts) > 1:
        key = inside.parts[0]
        flat = _FLAT.fullmatch(key)
        return (flat["key"], _spaced(flat["name"])) if flat else (key, _spaced(key))
    if flat := _FLAT.fullmatch(path.stem):
        return flat["key"], _spaced(flat["name"])
    raise InputError(
        f"the class of {path} is unknown; expected <wnid>_<name>{path.suffix}, or a folder a class."
    )


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _read_classes(path: Path) -> dict[str, str]:
    classes: dict[str, str] = {}
    for line in read_lines(path):
        key, _, names = line.partition("\t") if "\t" in line else line.partition(" ")
        if not names.strip():
            raise InputError(
                f"{path}: the line {line!r:.60} has no key and name; expected for instance "
                "'n01440764 tench'."
            )
        classes[key] = names.split(",")[0].strip()
    return classes


def spread(items: Sequence[T], limit: int | None) -> tuple[T, ...]:
    """Take `limit` items at equal distances, the first among them; all for None or few.

    Files in name order are often sorted by class or by scene, so that the first ones do not stand
    for the rest. Always the same ones for the same items.
    """
    if limit is None or limit >= len(items):
        return tuple(items)
    return tuple(items[index * len(items) // limit] for index in range(limit))
