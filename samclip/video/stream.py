"""A stream of frames: a thread reads ahead into a bounded queue, by an explicit policy.

`Policy` "every" waits for the caller, so that no frame is dropped: for files. "latest" keeps only
the newest frame and counts the others as dropped: for cameras. A live source that is lost is opened
again, with pauses that grow. Every way in which a stream can end is one of: no more frames (the
iteration stops), StreamOpenError, StreamTimeoutError, StreamLostError, StreamDamagedError, and
ClosedError after `close`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal, cast, get_args

from samclip.engines.machine.host import as_memory_error, require_room_for_thread
from samclip.errors import (
    ClosedError,
    InputError,
    StreamDamagedError,
    StreamError,
    StreamLostError,
    StreamTimeoutError,
    brief,
    did_you_mean,
)
from samclip.video.frames import Connection, DamagedFrameError, Frame, Grab, Source
from samclip.video.sources import find_source

Policy = Literal["latest", "every"]
QUEUE = 4  # frames that wait with "every"; with "latest" one does
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between two attempts to open a lost source
MOST_DAMAGED = 300  # frames in a row: 10 seconds of most cameras
SLACK_SECONDS = 1.0  # that a source gets in addition to its own time limit
MAX_SECONDS = 1e6
_logger = logging.getLogger("samclip")


@as_memory_error
def open_video(
    source: int | str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    queue: int = QUEUE,
    timeout: float = 10.0,
    reconnect: float = 60.0,
) -> VideoStream:
    """Open a stream of frames.

    `source`: a video file; a camera's number, as 0 or "0"; an address of RTSP, HTTP and others; a
    pipeline of GStreamer, which has " ! " in it; a folder of images, in name order; or "-" for
    standard input: images of JPEG one after the other, or a video that can be piped. Files,
    addresses and pipes need `pip install 'samclip[video]'`.
    `policy`: "latest" drops frames that are not taken in time, "every" waits; None means "latest"
    for live sources and "every" for all others.
    `queue`: the frames that wait at most with "every".
    `timeout`: the seconds that opening, and each frame, may take.
    `reconnect`: the seconds for which a live source that was lost is tried again, 0 for never,
    `math.inf` for ever. Frames that come start them again.

    Raises InputError, StreamOpenError, StreamTimeoutError, CapabilityError.

    Examples:
        >>> with samclip.open_video(photo.parent) as stream:
        ...     print(len(list(stream)) == stream.total)
        True
    """
    chosen = check_policy(policy)
    seconds = _check_seconds("timeout", timeout)
    patience = _check_seconds("reconnect", reconnect, least=0.0)
    if isinstance(queue, bool) or not isinstance(queue, int) or queue < 1:
        raise InputError(f"queue must be a whole number of at least 1; got {brief(queue)}.")
    return VideoStream(find_source(source), chosen, queue, seconds, patience)


def check_policy(policy: str | None) -> Policy | None:
    """Return a policy; InputError for another word."""
    if policy is not None and policy not in get_args(Policy):
        raise InputError(
            f"policy must be 'latest', 'every' or None; got {brief(policy)}"
            f"{did_you_mean(str(policy), get_args(Policy))}."
        )
    return cast("Policy | None", policy)


def _check_seconds(what: str, seconds: float, least: float | None = None) -> float:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or math.isnan(seconds) or not (seconds > 0 or seconds == least):
        raise InputError(
            f"{what} must be a number of seconds {'above' if least is None else 'of at least'} 0; "
            f"got {brief(seconds)}."
        )
    return float(seconds)


class VideoStream:
    """The frames of a source, read ahead by a thread; made by `open_video`.

    Iterate over it, in one thread at a time. `close` ends it, as does the end of its `with` block;
    after that it raises ClosedError. Its counts may be read from any thread.

    Examples:
        >>> with samclip.open_video(photo.parent) as stream:
        ...     frame = next(stream)
        >>> frame.number, frame.image.dtype.name, stream.policy
        (0, 'uint8', 'every')
    """

    def __init__(
        self, source: Source, policy: Policy | None, queue: int, timeout: float, reconnect: float
    ) -> None:
        self._source = source
        self._timeout = min(timeout, MAX_SECONDS)
        self._patience = min(reconnect, threading.TIMEOUT_MAX)
        self._policy: Policy | None = policy
        self._size = queue
        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._opened = self._finished = self._closed = False
        self._failure: Exception | None = None
        self._decoded = self._dropped = self._damaged = self._reconnects = 0
        self._total: int | None = None
        self._rate: float | None = None
        self._retrying = False
        self._lost_since: float | None = None  # until a frame comes again
        self._pause = FIRST_PAUSE
        self._began = self._read_began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="samclip-video", daemon=True)
        require_room_for_thread()
        self._thread.start()
        self._wait_until_open()

    @property
    def name(self) -> str:
        """What it is a stream of, without user and password."""
        return self._source.name

    @property
    def policy(self) -> Policy:
        """What happens to frames that are not taken in time."""
        return self._policy or "every"

    @property
    def total(self) -> int | None:
        """The number of frames that the source declares; None where it does not."""
        return self._total

    @property
    def rate(self) -> float | None:
        """Frames a second, as the source declares; None where it does not."""
        return self._rate

    @property
    def dropped(self) -> int:
        """The frames that were decoded and dropped, because nobody took them in time."""
        return self._dropped

    @property
    def damaged(self) -> int:
        """The frames that could not be decoded, and were skipped."""
        return self._damaged

    @property
    def reconnects(self) -> int:
        """How often the source was lost and opened again."""
        return self._reconnects

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        with self._changed:
            asked = time.monotonic()
            while not self._waiting:
                if self._closed:
                    raise ClosedError(f"the stream of {self.name} is closed. Open it again.")
                if self._failure is not None:
                    raise self._failure
                if self._finished:
                    raise StopIteration
                # The thread ends a read that takes too long by itself, and opens a live source
                # again; this limit is for one that does not come back.
                begun = time.monotonic() if self._retrying else max(asked, self._read_began)
                left = begun + self._timeout + SLACK_SECONDS - time.monotonic()
                if left <= 0:
                    raise StreamTimeoutError(
                        f"no frame of {self.name} came for {self._timeout:g} s. Check it, or give "
                        "it more time."
                    )
                self._changed.wait(min(left, 0.5))
            frame = self._waiting.popleft()
            self._changed.notify_all()
            return frame

    def close(self) -> None:
        """End the stream and its thread; closing again does nothing.

        A thread that waits for a source ends when the source's own time limit is over.
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(SLACK_SECONDS)

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoStream({self.name!r}, policy={self.policy!r})"

    def _wait_until_open(self) -> None:
        until = self._began + self._timeout + SLACK_SECONDS
        with self._changed:
            while not (self._opened or self._finished):
                left = until - time.monotonic()
                if left <= 0:
                    self._closed = True
                    raise StreamTimeoutError(
                        f"{self.name} did not open in {self._timeout:g} s. Check it, or give it "
                        "more time."
                    )
                self._changed.wait(left)
            if not self._opened and self._failure is not None:
                self._closed = True
                raise self._failure

    def _run(self) -> None:
        """Read until the end, in the thread of this stream."""
        failure: Exception | None = None
        try:
            self._read_connections()
        except Exception as error:  # it is raised where the frames are taken
            failure = error
        with self._changed:
            self._failure = failure
            self._finished = True
            self._changed.notify_all()

    def _read_connections(self) -> None:
        connection = self._source.open(self._timeout)
        while True:
            with contextlib.closing(connection):
                self._note_open(connection)
                try:
                    self._read(connection)
                    if self._closed or not connection.is_live:
                        return
                    lost: StreamError = StreamLostError(
                        f"{self.name} ended its stream. Check the camera or the server."
                    )
                except (StreamLostError, StreamTimeoutError) as error:
                    if not connection.is_live:
                        raise
                    lost = error
            again = self._open_again(lost)
            if again is None:
                return
            connection = again

    def _note_open(self, connection: Connection) -> None:
        with self._changed:
            if self._policy is None:
                self._policy = "latest" if connection.is_live else "every"
            self._total, self._rate = connection.total, connection.rate
            self._opened, self._retrying = True, False
            self._changed.notify_all()

    def _read(self, connection: Connection) -> None:
        """Read frames until the end, or until this stream is closed."""
        damaged, last = 0, time.monotonic()
        while not self._closed:
            self._read_began = time.monotonic()
            try:
                grab = connection.read()
            except DamagedFrameError as error:
                self._damaged += 1
                damaged += 1
                _logger.debug("%s: a damaged frame was skipped: %s", self.name, error)
                if damaged >= MOST_DAMAGED:
                    kind = StreamLostError if connection.is_live else StreamDamagedError
                    raise kind(
                        f"{damaged} frames in a row of {self.name} cannot be decoded, the last one "
                        f"because: {error}. Check the source and the connection to it."
                    ) from error
                if connection.is_live and time.monotonic() - last > self._timeout:
                    raise StreamTimeoutError(
                        f"{self.name} sent no whole frame for {self._timeout:g} s. Check the "
                        "camera and the network, or give it more time."
                    ) from error
                continue
            if grab is None:
                if damaged and not self._decoded:
                    raise StreamDamagedError(
                        f"none of the {damaged} frames of {self.name} can be decoded. Check it."
                    )
                return
            damaged, last = 0, time.monotonic()
            self._lost_since = None
            self._put(grab)

    def _put(self, grab: Grab) -> None:
        """Let a frame wait: in place of the one that waits, or after those that are taken first."""
        now = time.monotonic()
        with self._changed:
            if self._policy == "latest":
                self._dropped += len(self._waiting)
                self._waiting.clear()
            while len(self._waiting) >= self._size and not self._closed:
                self._changed.wait()
            if self._closed:
                return
            number = self._decoded
            self._decoded += 1
            self._waiting.append(
                Frame(
                    grab.image,
                    number,
                    now - self._began if grab.time is None else grab.time,
                    now,
                    self._dropped,
                    self._damaged,
                )
            )
            self._changed.notify_all()

    def _open_again(self, lost: StreamError) -> Connection | None:
        """Open a lost source, with growing pauses; None when this stream is closed meanwhile."""
        if self._lost_since is None:  # else it was opened again, and no frame came
            self._lost_since, self._pause = time.monotonic(), FIRST_PAUSE
        self._retrying = True
        while True:
            left = self._patience - (time.monotonic() - self._lost_since)
            if left <= 0:
                if self._patience == 0:
                    raise lost
                raise StreamLostError(
                    f"{self.name} was lost, and could not be opened again in {self._patience:g} s: "
                    f"{lost}"
                ) from lost
            _logger.info("%s was lost, opened again in %.1f s: %s", self.name, self._pause, lost)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, min(self._pause, left))
            if self._closed:
                return None
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            try:
                connection = self._source.open(self._timeout)
            except StreamError as error:
                lost = error
                continue
            self._reconnects += 1
            return connection
