"""JPEG images one after the other in a pipe, as cameras and `curl` write them (Motion JPEG).

The images are found by their markers (ITU-T T.81, annex B.1). What lies between them is passed
over, such as the headers of a multipart answer. FFmpeg's demuxer is not used for this: it joins an
image that is cut off with the one after it, so that nobody counts it.
"""

from __future__ import annotations

import re
from typing import BinaryIO, NoReturn

from samclip.errors import ImageError
from samclip.runtime.pixels.image import load_image
from samclip.video.frames import DamagedFrameError, Grab

START = b"\xff\xd8\xff"  # SOI, and the first byte of the marker after it
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan: no stuffed byte, restart or fill
SOS, EOI = 0xDA, 0xD9
SEGMENTS = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE})  # those that have a length
CHUNK = 2**16
MAX_BYTES = 2**26  # of one image


class JpegConnection:
    """The images of a pipe that is open for reading; one that is not whole is a damaged frame."""

    is_live = False
    total = None
    rate = None

    def __init__(self, pipe: BinaryIO, begun: bytes = b"") -> None:
        self._pipe = pipe
        self._read = getattr(pipe, "read1", pipe.read)  # what is there, without waiting for more
        self._bytes = bytearray(begun)

    def read(self) -> Grab | None:
        """Read the next image; None at the end of the pipe."""
        begin = 0
        while (begin := self._bytes.find(START, begin)) < 0:
            del self._bytes[: -len(START) + 1]
            begin = 0
            if not self._has(len(self._bytes) + 1):
                return None
        del self._bytes[:begin]
        end = self._find_end()
        image = bytes(self._bytes[:end])
        del self._bytes[:end]
        try:
            return Grab(load_image(image))
        except ImageError as error:
            raise DamagedFrameError(str(error)) from error

    def close(self) -> None:
        """Do nothing: the pipe is the caller's."""
        self._bytes.clear()

    def _find_end(self) -> int:
        """Return the number of bytes of the image that the bytes begin with."""
        place, in_scan = 2, False
        while True:
            if in_scan:
                place = self._find_marker(place)
            # A scan that is cut off ends where the next image begins. A start that no header
            # follows was none, so that what is after it is searched again.
            again = place if in_scan else 2
            if not self._has(place + 2):
                self._give_up(again, "it is cut off")
            mark, code = self._bytes[place : place + 2]
            if mark == 0xFF and code == EOI:
                return place + 2
            if mark != 0xFF or code not in SEGMENTS or not self._has(place + 4):
                self._give_up(again, "it has no end")
            place += 2 + int.from_bytes(self._bytes[place + 2 : place + 4], "big")
            in_scan = in_scan or code == SOS

    def _find_marker(self, place: int) -> int:
        while (match := MARKER.search(self._bytes, place)) is None:
            place = max(place, len(self._bytes) - 1)
            if not self._has(len(self._bytes) + 1):
                self._give_up(place, "it is cut off")
        return match.start()

    def _has(self, count: int) -> bool:
        """Read until there are so many bytes; whether there are."""
        while len(self._bytes) < count:
            if len(self._bytes) > MAX_BYTES:
                self._give_up(2, f"it has more than {MAX_BYTES:,} bytes")
            more = self._read(CHUNK)
            if not more:
                return False
            self._bytes += more
        return True

    def _give_up(self, place: int, reason: str) -> NoReturn:
        del self._bytes[:place]
        raise DamagedFrameError(reason)
