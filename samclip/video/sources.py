"""The sources of streams, each with the way it is opened.

A file, an address, a camera's number, a pipeline of GStreamer, a folder of images, or standard
input. Cameras and pipelines are read by OpenCV, images by `load_image`, all others by PyAV.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import numpy as np

from samclip.disk.paths import user_path
from samclip.errors import (
    ImageError,
    InputError,
    StreamLostError,
    StreamOpenError,
    brief,
)
from samclip.runtime.pixels.image import SUFFIXES, load_image
from samclip.video.containers import LIVE_SCHEMES, ContainerConnection, without_password
from samclip.video.frames import Connection, DamagedFrameError, Grab, Source
from samclip.video.jpeg_pipe import START, JpegConnection

STDIN = "-"
BOUNDARY = b"--"  # of the answer of a camera's HTTP server
HIGHEST_CAMERA = 1023  # of Linux's /dev/video
MISSES = 30  # reads in a row without a frame after which a camera is lost


def find_source(given: Any) -> Source:
    """Return how to open what was given; raises InputError, StreamOpenError.

    A text of digits, or an int, is a camera; one with " ! " a pipeline of GStreamer; "-" standard
    input; one with "://" an address; a folder its images in name order; all others are files.
    """
    if isinstance(given, bool) or not isinstance(given, int | str | os.PathLike):
        raise InputError(
            "a stream is a camera's number, a path, an address, a pipeline of GStreamer or '-'; "
            f"got {brief(given)}. For frames of your own pass an iterable of arrays."
        )
    text = str(given) if isinstance(given, int) else os.fspath(given)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"a stream needs a path, an address or a number; got {brief(given)}.")
    if isinstance(given, int) or (text.isdecimal() and not Path(text).exists()):
        return _camera(int(text))
    if text == STDIN:
        return Source("standard input", False, _open_stdin)
    if " ! " in text:
        return Source("the pipeline", True, lambda _: CaptureConnection(text, cv2.CAP_GSTREAMER))
    scheme, colon, _ = text.partition("://")
    if colon and scheme.isalnum():
        name = without_password(text)
        return Source(
            name, scheme.lower() in LIVE_SCHEMES, partial(ContainerConnection, text, name)
        )
    path = user_path(text, "a stream")
    if path.is_dir():
        return Source(str(path), False, lambda _: FolderConnection(path))
    if not path.exists():
        raise StreamOpenError(f"there is no file or folder {path}. Check the path.")
    return Source(str(path), False, partial(ContainerConnection, str(path), str(path)))


def _camera(number: int) -> Source:
    if not 0 <= number <= HIGHEST_CAMERA:
        raise InputError(f"cameras are counted from 0 to {HIGHEST_CAMERA}; got {number}.")
    api = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
    return Source(f"camera {number}", True, lambda _: CaptureConnection(number, api))


def _open_stdin(seconds: float) -> Connection:
    """Open standard input: images of JPEG one after the other, or a container that can be piped."""
    pipe = _Rewindable(sys.stdin.buffer)
    if pipe.peek(len(START)).startswith((START, BOUNDARY)):
        return JpegConnection(sys.stdin.buffer, pipe.begun)
    try:
        connection = ContainerConnection(cast("BinaryIO", pipe), "standard input", seconds)
    except StreamOpenError:
        if START not in pipe.begun:
            raise
        return JpegConnection(sys.stdin.buffer, pipe.begun)
    pipe.keeps = False
    return connection


class _Rewindable:
    """A pipe that keeps what was read of it, for another reader, until `keeps` is False."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._read = getattr(pipe, "read1", pipe.read)
        self._ahead = b""
        self.begun = b""
        self.keeps = True

    def peek(self, count: int) -> bytes:
        """Return the next bytes, which are read again; fewer at the end."""
        self._ahead = self._pipe.read(count)
        self.begun = self._ahead
        return self._ahead

    def read(self, count: int) -> bytes:
        """Return up to so many bytes, none at the end."""
        if self._ahead:
            found, self._ahead = self._ahead[:count], self._ahead[count:]
            return found
        found = bytes(self._read(count))
        if self.keeps:
            self.begun += found
        return found


class CaptureConnection:
    """A camera, or a pipeline of GStreamer, by OpenCV; raises StreamOpenError."""

    is_live = True
    total = None

    def __init__(self, place: int | str, api: int) -> None:
        self._name = f"camera {place}" if isinstance(place, int) else "the pipeline"
        if api == cv2.CAP_GSTREAMER and not cv2.videoio_registry.hasBackend(api):
            raise StreamOpenError(
                "a pipeline needs an OpenCV that was built with GStreamer, which the packages of "
                "PyPI are not. Use the OpenCV of JetPack or of your system (python3-opencv)."
            )
        self._capture = cv2.VideoCapture(place, api)
        if not self._capture.isOpened():
            self._capture.release()
            where = "Check that /dev/video{0} is there, that no other program uses it, and your "
            advice = (
                where.format(place) + "permissions (group video)."
                if isinstance(place, int)
                else "Try it by gst-launch-1.0; it must end in: videoconvert ! "
                "video/x-raw,format=BGR ! appsink drop=true max-buffers=1."
            )
            raise StreamOpenError(f"{self._name} cannot be opened. {advice}")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame; not all drivers obey
        self._misses = 0

    @property
    def rate(self) -> float | None:
        """Frames a second, as the driver says."""
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate < 1000 else None

    def read(self) -> Grab | None:
        """Read the next frame; after many that failed in a row raise StreamLostError."""
        there, image = self._capture.read()
        if not there or image is None:
            self._misses += 1
            if self._misses >= MISSES or not self._capture.isOpened():
                raise StreamLostError(
                    f"{self._name} gives no more frames. Check its cable, or the pipeline."
                )
            raise DamagedFrameError("the driver gave no frame")
        self._misses = 0
        if image.ndim == 2:
            return Grab(np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8))
        if image.shape[2] != 3 or image.dtype != np.uint8:
            raise StreamOpenError(
                f"{self._name} gives {image.dtype} frames of shape {image.shape}; expected BGR of "
                "8 bits. End the pipeline in: videoconvert ! video/x-raw,format=BGR ! appsink."
            )
        return Grab(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


class FolderConnection:
    """The images of a folder in name order; one that cannot be read is a damaged frame."""

    is_live = False
    rate = None

    def __init__(self, folder: Path) -> None:
        try:
            names = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES)
        except OSError as error:
            raise StreamOpenError(
                f"the folder {folder} cannot be read: {error.strerror}."
            ) from error
        if not names:
            raise StreamOpenError(f"the folder {folder} has no images. Give one with .jpg or .png.")
        self._paths = iter(names)
        self.total = len(names)

    def read(self) -> Grab | None:
        """Read the next image."""
        path = next(self._paths, None)
        if path is None:
            return None
        try:
            return Grab(load_image(path))
        except ImageError as error:
            raise DamagedFrameError(str(error)) from error

    def close(self) -> None:
        """Do nothing: no file is held open."""
