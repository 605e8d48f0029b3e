"""Video files, addresses and pipes, read by PyAV: FFmpeg's demuxers and decoders.

PyAV and not OpenCV, because it says why a stream ended, has the time of each frame, and marks
those that are damaged. The frames are turned upright, as the file's display matrix says.
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from samclip.errors import (
    CapabilityError,
    StreamDamagedError,
    StreamError,
    StreamLostError,
    StreamOpenError,
    StreamTimeoutError,
)
from samclip.runtime.pixels.decode import MAX_SIDE
from samclip.runtime.pixels.limits import DEFAULT_MAX_PIXELS
from samclip.video.frames import DamagedFrameError, Grab, Pixels

if TYPE_CHECKING:
    from types import ModuleType

LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtp", "udp", "srt")
CUT_SHARE, CUT_SECONDS = 0.9, 1.0  # a file whose frames end before both is cut off
OPTIONS = {
    # TCP: over UDP a lost packet damages all frames up to the next key frame
    "rtsp": {"rtsp_transport": "tcp", "fflags": "nobuffer"},
    "rtsps": {"rtsp_transport": "tcp", "fflags": "nobuffer"},
}
PASSWORD = re.compile(r"(?<=//)[^/@]+@")


def import_av() -> ModuleType:
    """Import PyAV; raises CapabilityError with the remedy."""
    try:
        import av  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CapabilityError(
            "videos and addresses need the package av. Install it: pip install 'samclip[video]'. "
            "Cameras and folders of images need nothing more."
        ) from error
    module: ModuleType = av
    return module


def without_password(address: str) -> str:
    """Return an address for messages, without its user and password."""
    return PASSWORD.sub("", address)


class ContainerConnection:
    """The first video stream of a file, an address, or of a pipe that is open for reading.

    `name`: for messages; `seconds`: that opening and each read of an address may take. Raises
    StreamOpenError, StreamTimeoutError, CapabilityError without PyAV.
    """

    def __init__(self, place: str | BinaryIO, name: str, seconds: float) -> None:
        self._av = import_av()
        self._name = name
        self._seconds = seconds
        scheme = place.partition("://")[0].lower() if isinstance(place, str) else ""
        try:
            self._container = self._av.open(
                place,
                timeout=None if not isinstance(place, str) else (seconds, seconds),
                options=OPTIONS.get(scheme, {}),
            )
        except self._av.FFmpegError as error:
            raise self._as_open_error(error) from error
        except ValueError as error:  # an address that FFmpeg cannot parse
            raise StreamOpenError(f"{name} cannot be opened: {error}.") from error
        try:
            streams = self._container.streams.video
            if not streams:
                raise StreamOpenError(
                    f"{name} has no video stream. Give a video, or a folder of images."
                )
            self._stream = streams[0]
            self._check_size(self._stream.width, self._stream.height)
            # Else a picture of which a part is missing is made up from its surroundings.
            self._stream.codec_context.options = {"err_detect": "explode"}
            self.is_live = scheme in LIVE_SCHEMES or (
                scheme in ("http", "https") and self._seconds_long is None
            )
        except BaseException:
            self._container.close()
            raise
        self._packets = self._container.demux(self._stream)
        self._decoded: deque[Any] = deque()
        self._first: float | None = None
        self._last: float | None = None

    @property
    def total(self) -> int | None:
        """The number of frames that the container declares, or its length times its rate."""
        if self.is_live:
            return None
        if self._stream.frames:
            return int(self._stream.frames)
        if self._seconds_long is None or self.rate is None:
            return None
        return max(1, round(self._seconds_long * self.rate))

    @property
    def rate(self) -> float | None:
        """Frames a second on average."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate and math.isfinite(float(rate)) and rate > 0 else None

    @property
    def _seconds_long(self) -> float | None:
        duration = self._container.duration
        return None if duration is None or duration <= 0 else duration / self._av.time_base

    def read(self) -> Grab | None:
        """Read the next frame; None at the end of a file."""
        while not self._decoded:
            try:
                packet = next(self._packets, None)
            except self._av.FFmpegError as error:
                raise self._as_read_error(error) from error
            if packet is None:
                self._check_whole()
                return None
            try:
                self._decoded.extend(packet.decode())
            except self._av.FFmpegError as error:  # what it holds back comes with later packets
                raise DamagedFrameError(str(error)) from error
        return self._as_grab(self._decoded.popleft())

    def close(self) -> None:
        """Close the file or the connection."""
        self._decoded.clear()
        self._packets.close()
        self._container.close()

    def _as_grab(self, frame: Any) -> Grab:
        if frame.is_corrupt:
            raise DamagedFrameError("the decoder marked it as corrupt")
        self._check_size(frame.width, frame.height)
        try:
            image = frame.to_ndarray(format="rgb24")
        except (self._av.FFmpegError, ValueError) as error:
            raise DamagedFrameError(str(error)) from error
        time = frame.time
        if time is not None:
            self._first = time if self._first is None else self._first
            self._last = time
            time = float(time - self._first)
        return Grab(turn(image, frame.rotation), time)

    def _check_size(self, width: int, height: int) -> None:
        """Refuse frames that no scene takes; width and height are 0 where they are not known."""
        if width * height > DEFAULT_MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise StreamOpenError(
                f"{self._name} has frames of {width} x {height} pixels; at most "
                f"{DEFAULT_MAX_PIXELS:,}, and {MAX_SIDE:,} a side, are accepted. Make them smaller."
            )

    def _check_whole(self) -> None:
        """Raise StreamDamagedError at the end of a file that says it is longer."""
        length = self._seconds_long
        if self.is_live or length is None:
            return
        reached = 0.0 if self._last is None else self._last - (self._first or 0.0)
        step = 1 / self.rate if self.rate else 0.0
        if reached + step < min(length * CUT_SHARE, length - CUT_SECONDS):
            raise StreamDamagedError(
                f"{self._name} ends after {reached:.1f} s and says that it has {length:.1f} s: it "
                "is cut off. Copy it again."
            )

    def _as_open_error(self, error: Exception) -> StreamError:
        av, text = self._av.error, getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.TimeoutError | av.ExitError):
            return StreamTimeoutError(
                f"{self._name} did not answer in {self._seconds:g} s. Check the address and the "
                "network, or give it more time."
            )
        hints = (
            (av.HTTPUnauthorizedError, "Give user and password: scheme://USER:PASSWORD@host/..."),
            (av.HTTPError, "Check the address."),
            (av.FileNotFoundError, "Check the path or the address."),
            (av.IsADirectoryError, "Give a video, or a folder of images."),
            (av.PermissionError, "Check its permissions."),
            (av.InvalidDataError, "It is not a video that FFmpeg reads, or it is cut off."),
            (av.ConnectionRefusedError, "Check host and port, and that it is switched on."),
        )
        hint = next((hint for kind, hint in hints if isinstance(error, kind)), "Check it.")
        return StreamOpenError(f"{self._name} cannot be opened: {text}. {hint}")

    def _as_read_error(self, error: Exception) -> StreamError:
        """Return why no more packets come; those of a live source may after it is opened again."""
        av, text = self._av.error, getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.TimeoutError | av.ExitError):
            return StreamTimeoutError(
                f"{self._name} sent nothing for {self._seconds:g} s. Check the camera and the "
                "network, or give it more time."
            )
        if self.is_live:
            return StreamLostError(
                f"{self._name} was cut off: {text}. Check the camera and the network."
            )
        return StreamDamagedError(f"{self._name} cannot be read on: {text}. Copy it again.")


def turn(image: Pixels, degrees: int) -> Pixels:
    """Turn HxWx3 counterclockwise by a multiple of 90 degrees; others are left as they are."""
    quarters = round(degrees / 90) if degrees % 90 == 0 else 0
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters % 4 else image
