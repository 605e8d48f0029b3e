"""A frame of a stream, and the connection that one is read from.

A connection is what a kind of source opens: it reads one picture after the other, in the thread
that opened it, and says by a typed error why there are no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a stream.

    `image`: HxWx3 uint8 RGB, upright; `number`: counts the frames that were decoded, from 0, those
    that were dropped included; `time`: seconds from the stream's beginning, by its own clock where
    it has one, else by that of this machine; `taken`: `time.monotonic()` when it was decoded;
    `dropped`, `damaged`: how many frames were so far.

    Examples:
        >>> with samclip.open_video(photo.parent) as stream:
        ...     frames = list(stream)
        >>> [frame.number for frame in frames[:3]], frames[0].image.shape[2], frames[0].dropped
        ([0, 1, 2], 3, 0)
    """

    image: Pixels
    number: int
    time: float
    taken: float
    dropped: int = 0
    damaged: int = 0


@dataclass(frozen=True, eq=False)
class Grab:
    """A picture that a connection read: HxWx3 uint8 RGB, and its time in seconds if it has one."""

    image: Pixels
    time: float | None = None


class DamagedFrameError(Exception):
    """One frame cannot be decoded; the next one may."""


class Connection(Protocol):
    """A source that is open.

    `is_live`: frames come at the source's own pace, and never end by themselves; `total`: the
    number of frames, `rate`: frames a second, both None where the source does not say.
    """

    @property
    def is_live(self) -> bool:
        """Whether frames come at the source's own pace."""
        ...

    @property
    def total(self) -> int | None:
        """The number of frames."""
        ...

    @property
    def rate(self) -> float | None:
        """Frames a second."""
        ...

    def read(self) -> Grab | None:
        """Read the next picture; None at the end.

        Raises DamagedFrameError for one that cannot be decoded, and StreamError.
        """
        ...

    def close(self) -> None:
        """Release it; closing again does nothing."""
        ...


@dataclass(frozen=True)
class Source:
    """What can be opened, as often as it is lost.

    `name`: for messages, without passwords; `is_live`: whether it is surely live, before it is
    open; `open`: takes the seconds that opening and each read may take, and returns a connection.
    """

    name: str
    is_live: bool
    open: Callable[[float], Connection]
