"""Streams of files for Pillow's decoders: reads are pauses, or the data is fed.

Feeding tells whether a picture is whole. Pillow's own loop does not where a program sets
`ImageFile.LOAD_TRUNCATED_IMAGES`.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO

from PIL import Image
from PIL.ImageFile import ImageFile

from samclip.runtime.pixels.picture import HeaderError, Pause


class PausedStream(io.BytesIO):
    """A file's bytes, of which each read is a pause; Pillow reads some 64 KB at a time."""

    def __init__(self, data: bytes, pause: Pause) -> None:
        super().__init__(data)
        self._pause = pause

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes."""
        self._pause()
        return super().read(size)


class _Joined(io.RawIOBase):
    """Parts of files read as one file, without a copy of them; each read is a pause."""

    def __init__(self, parts: Sequence[bytes | memoryview], pause: Pause) -> None:
        self._parts, self._pause, self._position = parts, pause, 0
        self._ends = list(accumulate(map(len, parts)))

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Let go of the parts."""
        self._parts, self._ends = [], [0]
        super().close()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset from the start, the place reached, or the end."""
        self._position = max(0, offset + (0, self._position, self._ends[-1])[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer as much as one part has."""
        self._pause()
        part = bisect_right(self._ends, self._position)
        if part == len(self._parts):
            return 0
        start = self._position - self._ends[part] + len(self._parts[part])
        taken = self._parts[part][start : start + len(buffer)]
        buffer[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)


def join(parts: Sequence[bytes | memoryview], pause: Pause) -> BinaryIO:
    """Return a stream of parts, one after the other, that copies none; reads are pauses."""
    return io.BufferedReader(_Joined(parts, pause), 2**16)


class Feeder:
    """Pillow's decoder of an image's only tile, and the bytes that it has not taken yet.

    `damage`: the reason of the HeaderError where the decoder refuses its data; `arguments` of the
    decoder, in place of the tile's. `finished`: the decoder has all pixels.
    """

    def __init__(
        self, image: ImageFile, damage: str, arguments: tuple[Any, ...] | None = None
    ) -> None:
        image.load_prepare()
        name, extents, _, own = image.tile[0]
        self._decoder = Image._getdecoder(image.mode, name, arguments or own, image.decoderconfig)
        self._decoder.setimage(image.im, extents)
        self._damage = damage
        self._rest = b""
        self.finished = False

    def feed(self, data: bytes) -> int:
        """Feed some bytes; return how many are left over."""
        if self.finished:
            return 0
        self._rest = self._rest + data if self._rest else data
        taken, code = self._decoder.decode(self._rest)
        if taken < 0:
            self._decoder.cleanup()
            self.finished = True
            if code < 0:
                raise HeaderError(self._damage)
            return 0
        self._rest = self._rest[taken:]
        return len(self._rest)
