"""TIFF files: the choice of the picture among those of a file, and its pixels.

The first picture may be a thumbnail: the tag NewSubfileType says so. Of the chosen one a file of
its own is made, with only those tags that pixels depend on, and Pillow (libtiff) decodes that.
Where Pillow would misread the samples, it only unpacks their bytes, and `tiff_samples.py` reads
these.
"""

from __future__ import annotations

from math import ceil

from PIL.TiffImagePlugin import TiffImageFile

from samclip.runtime.pixels.picture import DAMAGED, HeaderError, Pause, Picture, check_size, reserve
from samclip.runtime.pixels.tiff_directory import (
    COLOURS,
    COMPRESSION,
    FILL_ORDER,
    FORMAT,
    ICC,
    ORIENTATION,
    PREDICTOR,
    STRIPS,
    TILES,
    XMP,
    Directory,
    pieces,
    read_directories,
    write_tiff,
)
from samclip.runtime.pixels.tiff_samples import read_samples

RAW_PHOTOMETRICS = {32803, 34892}  # mosaics of a sensor, and linear raw
DNG_VERSION = 50706
JPEG, OLD_JPEG, FAX = 7, 6, (2, 3, 4, 32771)  # compressions
# Of these libtiff is asked for: none, LZW, Deflate, PackBits, LZMA and Zstandard are the others.
COMPRESSIONS = {1, 5, JPEG, OLD_JPEG, *FAX, 8, 32946, 32773, 34925, 50000}
NAMED = {34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 50001: "WebP", 34887: "LERC"}
NAMED |= {50002: "JPEG XL", 52546: "JPEG XL", 34892: "lossy JPEG of DNG"}
GREYS = (0, 1)  # photometric interpretations
MAX_PIECES = 2**17  # strips or tiles


def read_tiff(data: bytes, max_pixels: int, pause: Pause) -> Picture:
    """Decode a TIFF file's picture, at full size; raises HeaderError.

    The picture is the first that is not marked as a smaller copy or a mask. A later one of the same
    shape but at least twice the size is preferred, because the first is its thumbnail.
    """
    page = _choose(list(read_directories(data)))
    _check(page, max_pixels)
    image = _decode(data, page, pause) if _is_pillows(page) else read_samples(data, page, pause)
    icc = page.tags.get(ICC, (0, 0, None))[2]
    return Picture(
        image,
        None,
        page.tags.get(XMP, (0, 0, None))[2],
        icc,
        page.number(ORIENTATION, 1),
        max(page.bits) == 16,
    )


def _choose(pages: list[Directory]) -> Directory:
    """Choose the picture; raises HeaderError for camera raw files and files without one."""
    if any(page.photometric in RAW_PHOTOMETRICS or DNG_VERSION in page.tags for page in pages):
        raise HeaderError("is a camera raw file: develop it, to JPEG or TIFF, and pass that")
    pages = [page for page in pages if min(page.size) > 0]
    full = [page for page in pages if not page.is_reduced]
    if not full:
        if not pages:
            raise HeaderError(DAMAGED)
        return max(pages, key=lambda page: page.size[0] * page.size[1])
    width, height = full[0].size
    for page in full[1:]:
        scale = page.size[0] / width
        if scale >= 2 and abs(page.size[1] - height * scale) <= scale:
            return page
    return full[0]


def _check(page: Directory, max_pixels: int) -> None:
    """Check sizes and counts before anything is decoded."""
    check_size(page.size, max_pixels)
    check_size(page.piece, max_pixels)
    (width, height), (piece_width, piece_height) = page.size, page.piece
    if not 1 <= page.samples <= 16:
        raise HeaderError(f"is a TIFF of {page.samples} samples a pixel: convert it to RGB")
    if page.photometric in GREYS and page.samples > 2:  # more than grey and alpha
        raise HeaderError(
            f"is a TIFF of {page.samples} bands, of which none is said to be red, green or blue: "
            "choose three bands, and save them as RGB"
        )
    if (kind := page.number(COMPRESSION, 1)) not in COMPRESSIONS:
        raise HeaderError(
            f"is a TIFF compressed by {NAMED.get(kind, f'a method of the number {kind}')}, which "
            "is not read: save it with LZW or Deflate"
        )
    offsets = page.numbers(TILES) or page.numbers(STRIPS)
    expected = ceil(width / piece_width) * ceil(height / piece_height) * page.planes
    if expected > MAX_PIECES:
        raise HeaderError(f"has more than {MAX_PIECES:,} strips or tiles: save it again")
    if len(offsets) < expected:
        raise HeaderError(DAMAGED)
    if ceil(max(page.bits) / 8) * page.samples * width * height > 16 * max_pixels:
        raise HeaderError("has too many samples for its size: convert it to 8-bit RGB")


def _is_pillows(page: Directory) -> bool:
    """Whether Pillow is known to read such samples right."""
    bits, formats = set(page.bits), set(page.numbers(FORMAT) or (1,))
    if page.number(COMPRESSION, 1) in (JPEG, OLD_JPEG, *FAX):
        return True
    if formats != {1} or len(bits) > 1 or page.number(PREDICTOR, 1) > 2:
        return False
    if page.photometric == 3:  # colours of 8 bits, as old writers stored them
        return bits <= {1, 2, 4, 8} and max(page.numbers(COLOURS), default=0) > 255
    if page.photometric in GREYS and page.samples == 1:
        return bits <= {1, 2, 4, 8}
    if page.photometric in GREYS and page.planes > 1:
        return False
    return page.photometric in (0, 1, 2, 5) and bits == {8} and page.number(FILL_ORDER, 1) == 1


def _decode(data: bytes, page: Directory, pause: Pause) -> TiffImageFile:
    if page.number(COMPRESSION, 1) == OLD_JPEG:
        raise HeaderError("is a TIFF with an old kind of JPEG inside: save it again")
    width, height = page.size
    reserve(4 * width * height)
    with write_tiff(pieces(data, page), page, pause) as stream:
        image = TiffImageFile(stream)
        image.load()
    return image
