"""A check that calibration feeds are photos: noise has other ranges than a camera's pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from samclip.errors import CalibrationError

MIN_CORRELATION = 0.2  # of neighbouring pixels: photos have 0.8 to 0.99, noise has 0
CHANNELS = 3


def checked_photos(
    feeds: Iterable[Mapping[str, NDArray[np.generic]]],
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Yield feeds that look like photos; raises CalibrationError for others, and for no feeds."""
    count = 0
    for count, feed in enumerate(feeds, start=1):
        check_photo(feed, count)
        yield feed
    if not count:
        raise CalibrationError("there are no photos to calibrate on; give a folder of photos")


def check_photo(feeds: Mapping[str, NDArray[np.generic]], place: int) -> None:
    """Raise CalibrationError unless the images among the inputs of a graph look like photos.

    Images are inputs Bx3xHxW of floats, or BxHxWx3 uint8; every other floating-point input only
    has to be finite. `place` counts the feeds from 1.
    """
    for name, given in feeds.items():
        if not (given.dtype == np.uint8 or np.issubdtype(given.dtype, np.floating)):
            continue
        array = given.transpose(0, 3, 1, 2) if given.dtype == np.uint8 else given
        if not np.isfinite(array).all():
            raise CalibrationError(f"{name!r} of calibration feed {place} is not finite")
        if array.ndim == 4 and array.shape[1] == CHANNELS:
            correlation = neighbour_correlation(np.asarray(array, np.float32))
            if not correlation >= MIN_CORRELATION:
                raise CalibrationError(
                    f"{name!r} of calibration feed {place} is not a photo: neighbouring pixels "
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
