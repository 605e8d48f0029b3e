"""Samples of TIFF pictures that Pillow does not read, or misreads.

These are whole numbers of 8, 12 and 16 bits, in one plane or several, as grey, RGB, CMYK, CIE
L*a*b* or YCbCr. Their range is that of their bits: [0, 2^bits - 1].
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from samclip.runtime.pixels.colour import lab_to_srgb
from samclip.runtime.pixels.picture import DAMAGED, HeaderError, Pause, reserve, scale_to_8_bits
from samclip.runtime.pixels.tiff_directory import (
    BITS,
    COLOURS,
    COMPRESSION,
    EXTRA,
    FILL_ORDER,
    FORMAT,
    LENGTH,
    PHOTOMETRIC,
    PREDICTOR,
    ROWS,
    SAMPLES,
    SUBSAMPLING,
    TILES,
    WIDTH,
    Directory,
    pieces,
    row_bytes,
    write_tiff,
)

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, CMYK, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
COLOUR_SAMPLES = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
COLOUR_SAMPLES |= {LAB: 3, ICC_LAB: 3}


def read_samples(data: bytes, page: Directory, pause: Pause) -> Image.Image:
    """Decode a picture; raises HeaderError for samples of unknown range or meaning."""
    bits = page.bits[0]
    _check_kind(page, bits)
    width, height = page.size
    reserve(width * height * page.samples * ceil(bits / 8) * 2)
    samples = _gather(data, page, bits, pause)  # H, W, samples
    return _to_image(samples, page, bits)


def _check_kind(page: Directory, bits: int) -> None:
    formats = set(page.numbers(FORMAT) or (1,))
    if formats != {1}:
        kind = {2: "signed", 3: "floating-point"}.get(max(formats), "other")
        if not (formats == {2} and page.photometric in (LAB, ICC_LAB)):
            raise HeaderError(
                f"has {kind} samples of {bits} bits, whose range is unknown: scale it to 8 bits"
            )
    needed = COLOUR_SAMPLES.get(page.photometric)
    known = {LAB: (8, 16), ICC_LAB: (8,), YCBCR: (8,), PALETTE: (1, 2, 4, 8)}
    if (
        needed is None
        or page.samples < needed
        or set(page.bits) != {bits}
        or bits not in known.get(page.photometric, (8, 12, 16))
        or page.number(PREDICTOR, 1) > (1 if bits in (1, 2, 4, 12) else 2)
        or (page.number(FILL_ORDER, 1) != 1 and page.number(COMPRESSION, 1) == 1)
        or (page.photometric == YCBCR and (page.numbers(SUBSAMPLING) or (2, 2)) != (1, 1))
    ):
        raise HeaderError(
            f"is a TIFF of a rare kind (photometric interpretation {page.photometric}, "
            f"{page.samples} samples of {bits} bits): convert it to 8-bit RGB"
        )


def _gather(data: bytes, page: Directory, bits: int, pause: Pause) -> NDArray[Any]:
    """Unpack the samples of all planes: height x width x samples."""
    parts = pieces(data, page)
    (width, height), (piece_width, piece_height) = page.size, page.piece
    across, down = ceil(width / piece_width), ceil(height / piece_height)
    count, planes = across * down, []
    for plane in range(page.planes):
        own = parts[plane * count : (plane + 1) * count]
        rows = _unpack(own, page, across, down, pause)  # rows, across, bytes
        samples = _to_numbers(rows, page, bits)  # rows, across, piece_width, samples
        if page.number(PREDICTOR, 1) == 2:
            samples = np.cumsum(samples, axis=2, dtype=samples.dtype)
        whole = samples.reshape(len(samples), across * piece_width, -1)
        planes.append(whole[:height, :width])
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _unpack(
    parts: list[memoryview], page: Directory, across: int, down: int, pause: Pause
) -> NDArray[np.uint8]:
    """Undo the compression of one plane's strips or tiles: rows x pieces across x bytes.

    Each is unpacked as a strip of a grey picture of 8 bits, one above the other.
    """
    row, (_, height), (_, piece_height) = row_bytes(page), page.size, page.piece
    is_tiled = TILES in page.tags
    rows = across * down * piece_height if is_tiled else height
    if page.number(COMPRESSION, 1) == 1:
        flat = np.frombuffer(b"".join(parts), np.uint8)
        if len(flat) < rows * row:
            raise HeaderError(DAMAGED)
        unpacked = flat[: rows * row]
    else:
        tags = {tag: page.tags[tag] for tag in (COMPRESSION, FILL_ORDER) if tag in page.tags}
        values = {WIDTH: row, LENGTH: rows, BITS: 8, SAMPLES: 1, PHOTOMETRIC: 1, ROWS: piece_height}
        tags |= {tag: (4, 1, value.to_bytes(4, page.order)) for tag, value in values.items()}
        with write_tiff(parts, Directory(tags, page.order), pause) as stream:
            grey = TiffImageFile(stream)
            grey.load()
        unpacked = np.asarray(grey)
    if not is_tiled:
        return np.asarray(unpacked.reshape(rows, 1, row), np.uint8)
    tiles = unpacked.reshape(down, across, piece_height, row).transpose(0, 2, 1, 3)
    return np.asarray(tiles.reshape(down * piece_height, across, row), np.uint8)


def _to_numbers(rows: NDArray[np.uint8], page: Directory, bits: int) -> NDArray[Any]:
    """Read whole numbers from bytes: rows x pieces x pixels x samples of one plane."""
    samples = page.samples // page.planes
    width = page.piece[0]
    if bits == 16:
        order = "<" if page.order == "little" else ">"
        numbers: NDArray[Any] = (
            np.ascontiguousarray(rows).view(f"{order}u2").astype(np.uint16, copy=False)
        )
    elif bits == 12:
        values = np.zeros((*rows.shape[:2], ceil(rows.shape[2] / 3) * 3), np.uint16)
        values[..., : rows.shape[2]] = rows
        first, second, third = (values[..., i::3] for i in range(3))
        pair = np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], axis=-1)
        numbers = pair.reshape(*rows.shape[:2], -1)
    elif bits < 8:
        ones = np.unpackbits(rows, axis=2).reshape(*rows.shape, 8 // bits, bits)
        weights = (1 << np.arange(bits)[::-1]).astype(np.uint8)
        numbers = (ones * weights).sum(axis=-1, dtype=np.uint8).reshape(*rows.shape[:2], -1)
    else:
        numbers = rows
    return numbers[..., : width * samples].reshape(*rows.shape[:2], width, samples)


def _to_image(samples: NDArray[Any], page: Directory, bits: int) -> Image.Image:
    kind = page.photometric
    if kind == PALETTE:
        return Image.fromarray(_colours(page, bits)[samples[..., 0]])
    colours = samples[..., : COLOUR_SAMPLES[kind]]
    if kind in (LAB, ICC_LAB):
        return _lab_to_rgb(colours, bits, kind)
    if page.number(EXTRA, 0) == 1 and samples.shape[2] > COLOUR_SAMPLES[kind]:
        colours = _undo_alpha(colours, samples[..., COLOUR_SAMPLES[kind]], 2**bits - 1)
    scaled = np.ascontiguousarray(scale_to_8_bits(colours, 2**bits - 1))
    if kind == MIN_IS_WHITE:
        scaled = 255 - scaled
    if kind in (MIN_IS_WHITE, MIN_IS_BLACK):
        return Image.fromarray(scaled[..., 0])
    if kind == RGB:
        return Image.fromarray(scaled)
    height, width = scaled.shape[:2]
    mode = "CMYK" if kind == CMYK else "YCbCr"
    return Image.frombytes(mode, (width, height), scaled.tobytes())


def _undo_alpha(colours: NDArray[Any], alpha: NDArray[Any], largest: int) -> NDArray[Any]:
    """Divide colours that were multiplied with alpha by it."""
    divided = colours.astype(np.float32) * largest / np.maximum(alpha, 1)[..., None]
    return np.asarray(np.minimum(divided + 0.5, largest), colours.dtype)


def _colours(page: Directory, bits: int) -> NDArray[np.uint8]:
    """Read a palette, 2^bits x 3, whose values old writers stored in 8 bits instead of 16."""
    values = np.array(page.numbers(COLOURS), np.int64)
    if len(values) != 3 << bits:
        raise HeaderError(DAMAGED)
    scaled = values if values.max() < 256 else values >> 8
    return np.ascontiguousarray(scaled.reshape(3, -1).T.astype(np.uint8))


def _lab_to_rgb(samples: NDArray[Any], bits: int, kind: int) -> Image.Image:
    """Convert CIE L*a*b* (D50) to sRGB; a* and b* are signed, but in ICC's form moved by 128."""
    lightness, signed = samples[..., :1], samples[..., 1:]
    if bits == 16:
        lightness = scale_to_8_bits(lightness, 65_535)
        signed = ((signed.astype(np.int16).astype(np.int32) + 128) >> 8).astype(np.uint8)
    packed = np.concatenate([lightness.astype(np.uint8), signed.astype(np.uint8)], axis=2)
    if kind == ICC_LAB:
        packed[..., 1:] ^= 128
    height, width = packed.shape[:2]
    image = Image.frombytes("LAB", (width, height), packed.tobytes(), "raw", "LAB")
    return lab_to_srgb(image)
