"""Sources of photos, folders among them, and their split into training and held-back photos.

A photo is identified by the SHA-256 of its file, so that nothing depends on names or their order.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samclip.disk.paths import user_path
from samclip.errors import ImageError, InputError
from samclip.merge.data.seeds import SEED_BITS, derive_seed
from samclip.merge.data.shards import decode_photo
from samclip.runtime.pixels.decode import MAX_IMAGE_BYTES
from samclip.runtime.pixels.image import SUFFIXES


class PhotoSource(Protocol):
    """A fixed list of photos that several threads and processes may read at once."""

    def __len__(self) -> int:
        """Return the number of photos."""
        ...

    def key(self, index: int) -> str:
        """Return the SHA-256 of a photo's file, lowercase hexadecimal."""
        ...

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Decode a photo: HWC uint8 RGB. Raises ImageError."""
        ...


class FolderSource:
    """The images in a folder and its subfolders, hidden ones left out, in the order of their paths.

    Files with the same bytes count once. `exclude`: patterns, such as `val/*`, of paths within the
    folder, written with `/`, that are left out. `longest`: see `decode_photo`. Raises InputError
    when there is no such folder or no image in it.
    """

    def __init__(
        self, folder: str | Path, exclude: Sequence[str] = (), longest: int | None = None
    ) -> None:
        self.folder = user_path(folder, "the folder of photos")
        self._longest = longest
        if not self.folder.is_dir():
            raise InputError(f"there is no folder {self.folder} of photos; give an existing one")
        found: dict[str, Path] = {}
        for path in sorted(self.folder.rglob("*")):
            if _is_image(path, self.folder, exclude):
                found.setdefault(hashlib.sha256(_read_capped(path)).hexdigest(), path)
        if not found:
            raise InputError(
                f"the folder {self.folder} holds no image that is not excluded; expected files "
                f"that end in {', '.join(sorted(SUFFIXES))}"
            )
        self._keys = tuple(found)
        self.paths = tuple(found.values())

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the SHA-256 of a photo's file."""
        return self._keys[index]

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Decode a photo: HWC uint8 RGB. Raises ImageError, also for a file that changed."""
        path = self.paths[index]
        data = _read_capped(path)
        if hashlib.sha256(data).hexdigest() != self._keys[index]:
            raise ImageError(f"the photo {path} changed since it was listed; start again")
        return decode_photo(data, f"the photo {path}", self._longest)


class PickedSource:
    """Some of the photos of a source."""

    def __init__(self, source: PhotoSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        """Return the SHA-256 of a photo's file."""
        return self._source.key(self._indices[index])

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Decode a photo: HWC uint8 RGB. Raises ImageError."""
        return self._source.photo(self._indices[index])


class JoinedSource:
    """Several sources one after the other; a photo that is in several counts once."""

    def __init__(self, sources: Sequence[PhotoSource]) -> None:
        found: dict[str, tuple[PhotoSource, int]] = {}
        for source in sources:
            for index in range(len(source)):
                found.setdefault(source.key(index), (source, index))
        self._keys = tuple(found)
        self._places = tuple(found.values())

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the SHA-256 of a photo's file."""
        return self._keys[index]

    def photo(self, index: int) -> NDArray[np.uint8]:
        """Decode a photo: HWC uint8 RGB. Raises ImageError."""
        source, place = self._places[index]
        return source.photo(place)


def split(source: PhotoSource, holdout: float, seed: int) -> tuple[PhotoSource, PhotoSource]:
    """Split into (train, held back), the latter about the share `holdout` of the photos.

    Each photo's side depends only on its content and `seed`, not on the other photos or on names.
    Raises InputError when `holdout` is not in [0, 1).
    """
    if not 0 <= holdout < 1:
        raise InputError(f"the share of photos held back is {holdout}; expected 0 up to below 1")
    limit = int(holdout * 2**SEED_BITS)
    train: list[int] = []
    held: list[int] = []
    for index in range(len(source)):
        is_held = derive_seed("holdout", seed, source.key(index)) < limit
        (held if is_held else train).append(index)
    return PickedSource(source, train), PickedSource(source, held)


def _is_image(path: Path, folder: Path, exclude: Sequence[str]) -> bool:
    within = path.relative_to(folder)
    hidden = any(part.startswith(".") for part in within.parts)
    if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    return not any(fnmatch.fnmatchcase(within.as_posix(), pattern) for pattern in exclude)


def _read_capped(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise ImageError(
            f"the photo {path} has {size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read; make it "
            "smaller or exclude it"
        )
    return path.read_bytes()
