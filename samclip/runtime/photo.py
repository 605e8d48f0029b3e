"""Photos of scenes and results: pixels, or what makes them when somebody reads them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from samclip.engines.cuda.memory import CudaTensor

Pixels = NDArray[np.uint8]
Result = TypeVar("Result", bound=Any)  # a dataclass, whose photo is a `PhotoField`


class LazyPhoto:
    """A photo whose pixels are made when somebody reads them; `shape` is theirs."""

    shape: tuple[int, ...]

    def pixels(self) -> Pixels:
        """Return the pixels on the host, HxWx3 uint8 RGB; may be called from any thread."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return np.asarray, (self.pixels(),)


class DevicePhoto(LazyPhoto):
    """A photo HxWx3 uint8 RGB in the left of `tensor`, HxSx3 on a GPU.

    It is a copy of the caller's array, which may be overwritten. `pixels` copies it to the host
    when it is first called, and frees it on the GPU; from then on it is shared by all results.
    """

    def __init__(self, tensor: CudaTensor, width: int) -> None:
        self._tensor: CudaTensor | None = tensor
        self.shape = (tensor.shape[0], width, tensor.shape[2])
        self._pixels: Pixels | None = None
        self._lock = threading.RLock()  # a signal handler may read it, too

    def pixels(self) -> Pixels:
        """Return the pixels on the host, read-only; may be called from any thread.

        Raises EngineRunError, in a forked child as well, and DeviceMemoryError.
        """
        with self._lock:
            if self._tensor is not None:
                whole = self._tensor.numpy()
                pixels: Pixels = np.ascontiguousarray(whole[:, : self.shape[1]], np.uint8)
                pixels.flags.writeable = False
                self._pixels, self._tensor = pixels, None
            assert self._pixels is not None  # noqa: S101 - for mypy: one of the two is there
            return self._pixels


Photo = Pixels | LazyPhoto


def pixels_of(photo: Photo) -> Pixels:
    """Return the pixels of a photo on the host: HWC uint8 RGB."""
    return photo.pixels() if isinstance(photo, LazyPhoto) else photo


class PhotoField:
    """The field `image` of a result: it is given a `Photo`, and reads as its pixels."""

    def __get__(self, result: Any, kind: type | None = None) -> Pixels:
        if result is None:
            raise AttributeError("image")  # so a dataclass knows that the field has no default
        return pixels_of(result.__dict__["image"])

    def __set__(self, result: Any, photo: Photo) -> None:
        result.__dict__["image"] = photo


PHOTO = PhotoField()


def changed(result: Result, **fields: Any) -> Result:
    """Return a copy of a result with other `fields`, whose photo stays where it is.

    `dataclasses.replace` reads every field, and with it the pixels.
    """
    photo = {name: value for name, value in vars(result).items() if name == "image"}
    return replace(result, **{**photo, **fields})
