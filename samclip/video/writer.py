"""Videos of answers: H.264 where PyAV's FFmpeg has an encoder for it, else Motion JPEG.

The file is whole or absent however the process ends: it is written next to its place. What was
written until Ctrl-C or an error of the stream is kept, as a whole file of fewer frames.
"""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from samclip.disk.partial_files import result_path
from samclip.errors import InputError, WriteError
from samclip.video.containers import import_av

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}
H264 = ("libx264", "libopenh264")  # those that work in software, the better one first
H264_OPTIONS = {"libx264": {"preset": "veryfast", "crf": "23"}}
MJPEG = "mjpeg"
TICKS = 1000  # a second
DEFAULT_RATE = 25
LEAST_SIDE = 2


class VideoWriter:
    """Writes frames HxWx3 uint8 RGB to a file, whose suffix says what kind of container it is.

    Frames of another size than the first are fitted into it, with black around them. Use it in a
    `with` block. Raises InputError for another suffix, WriteError, CapabilityError without PyAV.
    """

    def __init__(self, path: Path, rate: float | None = None) -> None:
        self.path = path
        self.frames = 0
        self._av = import_av()
        form = FORMATS.get(path.suffix.lower())
        if form is None:
            raise InputError(
                f"cannot write {path.name!r}: a video needs a name that ends in "
                f"{', '.join(FORMATS)}."
            )
        self._form = form
        self._rate = Fraction(rate or DEFAULT_RATE).limit_denominator(1001)
        self.codec = next((name for name in H264 if self._has(name)), MJPEG)
        self._exits = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> VideoWriter:
        place = self._exits.enter_context(result_path(self.path))
        try:
            self._container = self._av.open(str(place), "w", format=self._form)
        except (self._av.FFmpegError, OSError) as error:
            self._fail(error)
        return self

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Add a frame that is shown from `time` on, in seconds; raises WriteError."""
        try:
            if self._stream is None:
                self._begin(image)
            frame = self._av.VideoFrame.from_ndarray(self._fit(image), format="rgb24")
            self._last = max(round(time * TICKS), self._last + 1)
            frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
            self._container.mux(self._stream.encode(frame))
        except (self._av.FFmpegError, OSError) as error:
            self._fail(error)
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = isinstance(error, WriteError)
        if not failed and self.frames:
            try:
                self._container.mux(self._stream.encode(None))
                self._container.close()
            except (self._av.FFmpegError, OSError) as fault:
                self._fail(fault)
            self._exits.close()
        else:
            if self._container is not None and not failed:
                self._container.close()
            self._exits.__exit__(kind or WriteError, error or WriteError(), trace)

    def _has(self, name: str) -> bool:
        if name not in self._av.codecs_available:
            return False
        try:
            self._av.Codec(name, "w")
        except (self._av.FFmpegError, ValueError):  # listed, and for reading alone
            return False
        return True

    def _begin(self, image: NDArray[np.uint8]) -> None:
        height, width = (max(LEAST_SIDE, side - side % 2) for side in image.shape[:2])
        options = H264_OPTIONS.get(self.codec, {})
        self._stream = self._container.add_stream(self.codec, rate=self._rate, options=options)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuvj420p" if self.codec == MJPEG else "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)

    def _fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image at the stream's size: cut by a row at most, or scaled and padded."""
        height, width = self._stream.height, self._stream.width
        if 0 <= image.shape[0] - height <= 1 and 0 <= image.shape[1] - width <= 1:
            return np.ascontiguousarray(image[:height, :width])
        scale = min(height / image.shape[0], width / image.shape[1])
        size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        canvas = np.zeros((height, width, 3), np.uint8)
        top, left = (height - size[1]) // 2, (width - size[0]) // 2
        canvas[top : top + size[1], left : left + size[0]] = small
        return canvas

    def _fail(self, error: Exception) -> None:
        """Remove what was written, and raise WriteError."""
        fault = WriteError(
            f"{self.path} could not be written: {getattr(error, 'strerror', None) or error}. What "
            "was there before is whole. Make room, or choose another place."
        )
        self._exits.__exit__(WriteError, fault, None)
        raise fault from error
