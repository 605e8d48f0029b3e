"""The newest message of a camera, as frames of a stream that `samclip.Model.watch` reads.

A message takes the place of the one that waits, and is converted only when it is taken. Those that
cannot be converted are counted and left out. The iterator ends with `close`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from samclip_ros.images import CameraImageError, Pixels, convert

REMEMBERED = 4096  # headers: those of a minute of a fast camera, while one frame is answered


class Camera:
    """Frames HxWx3 uint8 RGB; `header(n)` is the header of the n-th, from 0.

    `refused` is called with the reason for each message that cannot be converted, in the thread
    that iterates.
    """

    def __init__(self, refused: Callable[[CameraImageError], None]) -> None:
        self._refused = refused
        self._changed = threading.Condition()
        self._waiting: Any = None
        self._closed = False
        self._count = 0
        self._headers: dict[int, Any] = {}
        self.replaced = 0

    def put(self, message: Any) -> None:
        """Let a message wait, in place of the one that does; from any thread."""
        with self._changed:
            self.replaced += self._waiting is not None
            self._waiting = message
            self._changed.notify_all()

    def header(self, number: int) -> Any:
        """Return a frame's header, and forget those before it."""
        with self._changed:
            for older in [each for each in self._headers if each < number]:
                del self._headers[older]
            return self._headers[number]

    def close(self) -> None:
        """End the iterator; closing again does nothing."""
        with self._changed:
            self._closed = True
            self._waiting = None
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Pixels]:
        return self

    def __next__(self) -> Pixels:
        while True:
            message = self._take()
            try:
                pixels = convert(message)
            except CameraImageError as error:
                self._refused(error)
                continue
            with self._changed:
                self._headers[self._count] = message.header
                self._headers.pop(self._count - REMEMBERED, None)
                self._count += 1
            return pixels

    def _take(self) -> Any:
        with self._changed:
            while self._waiting is None and not self._closed:
                self._changed.wait()
            if self._closed:
                raise StopIteration
            message, self._waiting = self._waiting, None
            return message
