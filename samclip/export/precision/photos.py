"""The photos of reduced precision: some to measure on, others held back for the gates.

Whether calibration feeds are photos: ranges of noise are not those of a camera's pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samclip.errors import CalibrationError, ExportError
from samclip.export.options import ExportOptions
from samclip.runtime.pixels.image import photo_paths

MAX_CALIBRATION_PHOTOS = 64
MAX_GATE_PHOTOS = 32


@dataclass(frozen=True)
class PhotoSets:
    """Photos to measure ranges and calibrate on, and others that are held back for the gates."""

    measured: tuple[Path, ...]
    held_back: tuple[Path, ...]


def photo_sets(options: ExportOptions) -> PhotoSets:
    """Find both sets; raises ExportError when one lacks photos, or a photo is in both.

    Without photos to calibrate on, which INT8 is refused for, ranges are measured on the others.
    """
    calib, quantises = options.precision.calib, options.precision.quantises
    if quantises and calib is None:
        raise ExportError(
            "INT8 needs photos to calibrate on, like those of your task: give --calib FOLDER. "
            "Scales from random images would be worth nothing, so there is no default."
        )
    held_back = tuple(photo_paths(options.photos)[:MAX_GATE_PHOTOS])
    if not held_back:
        raise ExportError(f"no images in {options.photos} to judge on; give a folder of photos")
    if calib is None:
        return PhotoSets(held_back, held_back)
    measured = tuple(calibration_photos(calib))
    if options.verify:
        check_apart(measured, held_back)
    return PhotoSets(measured, held_back)


def calibration_photos(folder: Path) -> list[Path]:
    """List the photos of `folder` to calibrate on: evenly spread by name, at most 64.

    Raises ExportError when there are none.
    """
    found = photo_paths(folder)
    if not found:
        raise ExportError(f"no images in {folder} to calibrate on; give a folder of photos")
    step = max(len(found) / MAX_CALIBRATION_PHOTOS, 1.0)
    return [found[int(i * step)] for i in range(min(len(found), MAX_CALIBRATION_PHOTOS))]


def check_apart(calibration: Sequence[Path], held_back: Sequence[Path]) -> None:
    """Raise ExportError when a photo, by its content, is to calibrate and to judge."""
    known = {_digest(path): path for path in calibration}
    for path in held_back:
        if (twin := known.get(_digest(path))) is not None:
            raise ExportError(
                f"{path} is the photo {twin} of --calib: the gates would judge on what the graphs "
                "were made for. Give other photos to --calib or to --photos."
            )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


MIN_CORRELATION = 0.2  # of neighbouring pixels: photos have 0.8 to 0.99, noise has 0
CHANNELS = 3


def checked_photos(
    feeds: Iterable[Mapping[str, NDArray[np.generic]]],
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Pass on feeds that have been looked at; raises CalibrationError when there are none."""
    count = 0
    for count, feed in enumerate(feeds, start=1):
        check_photo(feed, count)
        yield feed
    if not count:
        raise CalibrationError("there are no photos to calibrate on; give a folder of photos")


def check_photo(feeds: Mapping[str, NDArray[np.generic]], place: int) -> None:
    """Raise CalibrationError unless the images among the inputs of a graph look like photos.

    Images are inputs Bx3xHxW; every other floating-point input only has to be finite. `place`
    counts the feeds from 1.
    """
    for name, array in feeds.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        if not np.isfinite(array).all():
            raise CalibrationError(f"{name!r} of calibration feed {place} is not finite")
        if array.ndim == 4 and array.shape[1] == CHANNELS:
            correlation = neighbour_correlation(np.asarray(array, np.float32))
            if not correlation >= MIN_CORRELATION:
                raise CalibrationError(
                    f"{name!r} of calibration feed {place} is no photo: neighbouring pixels "
                    f"correlate by {correlation:.2f}, those of photos by more than "
                    f"{MIN_CORRELATION}. Give a folder of photos like those to come."
                )


def neighbour_correlation(image: NDArray[np.float32]) -> float:
    """Correlate horizontal neighbours, 1 - E[(a - b)^2] / (2 var): 1 for smooth, 0 for noise.

    `image` is Bx3xHxW in any unit; pixels that are 0 in all channels are padding and left out. An
    image of one colour gives 0.
    """
    inside = (image != 0).any(axis=1)  # BxHxW
    pairs = inside[:, :, 1:] & inside[:, :, :-1]
    if not pairs.any():
        return 0.0
    pixels = image.transpose(0, 2, 3, 1)[inside]  # Nx3
    steps = np.diff(image, axis=3).transpose(0, 2, 3, 1)[pairs]  # Mx3
    variance = float(pixels.var(axis=0, dtype=np.float64).mean())
    change = float(np.square(steps, dtype=np.float64).mean())
    return 1 - change / (2 * variance) if variance > np.finfo(np.float32).tiny else 0.0
