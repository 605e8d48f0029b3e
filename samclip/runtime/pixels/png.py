"""PNG files: the chunks that hold pixels are checked and decoded; metadata cannot spoil them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL.PngImagePlugin import PngImageFile

from samclip.runtime.pixels.picture import DAMAGED, HeaderError, Pause, Picture, check_size
from samclip.runtime.pixels.streams import join

START = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 500_000
MAX_METADATA = 2**24  # bytes of one block, unpacked
# EXIF as ImageMagick writes it, in a text of one of two names.
RAW_NAME = re.compile(rb"Raw profile type (?:exif|APP1)\0")
RAW_PROFILE = re.compile(rb"\s*\w+\s+(\d+)\s+([0-9a-fA-F\s]+)")


@dataclass
class _Chunks:
    """The chunks of a file that are used."""

    header: bytes = b""
    palette: list[bytes | memoryview] = field(default_factory=list)  # parts of PLTE and tRNS
    data: list[memoryview] = field(default_factory=list)
    is_certain: bool = True  # all checksums of the data fit, and the end is there
    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None


def read_png(data: bytes, max_pixels: int, pause: Pause) -> Picture:
    """Decode a PNG file, of an animated one the default image; raises HeaderError."""
    chunks = _read_chunks(data, max_pixels)
    if not chunks.is_certain:
        _check_stream(chunks, pause)
    clean = (*_chunk(b"IHDR", chunks.header), *chunks.palette, *_chunk(b"IDAT", *chunks.data))
    with join((START, *clean, *_chunk(b"IEND")), pause) as stream:
        image = PngImageFile(stream)
        image.load()
    is_deep = chunks.header[8] == 16  # bits of a sample
    return Picture(image, chunks.exif, chunks.xmp, chunks.icc, is_deep=is_deep)


def _chunk(name: bytes, *body: bytes | memoryview) -> list[bytes | memoryview]:
    """Return the parts of a chunk: its length and name, the parts of its body, its checksum."""
    checksum = zlib.crc32(name)
    for part in body:
        checksum = zlib.crc32(part, checksum)
    return [struct.pack(">I", sum(map(len, body))) + name, *body, struct.pack(">I", checksum)]


def _walk(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield name, body and whether the checksum fits of each chunk; the last may be cut."""
    view, position = memoryview(data), len(START)
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        size = int.from_bytes(view[position : position + 4], "big")
        name = bytes(view[position + 4 : position + 8])
        end = position + 8 + size
        body = view[position + 8 : end]
        sound = view[end : end + 4] == zlib.crc32(body, zlib.crc32(name)).to_bytes(4, "big")
        yield name, body, sound
        if name == b"IEND":
            return
        position = end + 4
    raise HeaderError(f"has more than {MAX_CHUNKS:,} chunks: save it again")


def _read_chunks(data: bytes, max_pixels: int) -> _Chunks:
    chunks, ended = _Chunks(), False
    for name, body, sound in _walk(data):
        if name == b"IDAT":
            chunks.data.append(body)
            chunks.is_certain &= sound
        elif name == b"IEND":
            ended = True
        elif name == b"IHDR" and not chunks.header:
            _check_header(chunks, bytes(body), sound, max_pixels)
        elif name in (b"PLTE", b"tRNS"):
            if sound:
                chunks.palette += _chunk(name, body)
            elif name == b"PLTE":
                raise HeaderError("has a damaged palette: copy or download it again")
        elif name[:1].isupper():
            what = "an iPhone's own kind of PNG" if name == b"CgBI" else f"with chunks {name!r}"
            raise HeaderError(f"is a PNG of a rare kind, {what}: save it again")
        elif sound:
            _read_metadata(chunks, name, body)
        if name[:1] != b"I" and not chunks.header:
            raise HeaderError(DAMAGED)
    if not chunks.header or not chunks.data:
        raise HeaderError(DAMAGED)
    chunks.is_certain &= ended
    return chunks


def _check_header(chunks: _Chunks, body: bytes, sound: bool, max_pixels: int) -> None:
    if not sound or len(body) != 13:
        raise HeaderError(DAMAGED)
    check_size((int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")), max_pixels)
    chunks.header = body


def _check_stream(chunks: _Chunks, pause: Pause) -> None:
    """Unpack the data, whose checksums do not fit, and check its own; raises HeaderError."""
    stream = zlib.decompressobj()
    try:
        for body in chunks.data:
            rest: bytes | memoryview = body
            while len(rest) and not stream.eof:
                pause()
                stream.decompress(rest, 2**20)
                rest = stream.unconsumed_tail
    except zlib.error as error:
        raise HeaderError(DAMAGED) from error
    if not stream.eof:
        raise HeaderError(DAMAGED)


def _read_metadata(chunks: _Chunks, name: bytes, body: memoryview) -> None:
    if len(body) > MAX_METADATA:
        return
    if name == b"eXIf":
        chunks.exif = bytes(body)
    elif name == b"iCCP":
        chunks.icc = _unpack(bytes(body).partition(b"\0")[2][1:])
    elif name == b"iTXt" and bytes(body[:18]) == b"XML:com.adobe.xmp\0":
        packed, text = bytes(body[18:19]) == b"\1", bytes(body[20:]).split(b"\0", 2)[-1]
        chunks.xmp = _unpack(text) if packed else text
    elif name in (b"tEXt", b"zTXt") and (start := RAW_NAME.match(bytes(body[:32]))):
        text = bytes(body[start.end() :])
        text = text if name == b"tEXt" else _unpack(text[1:]) or b""
        if chunks.exif is None and (found := RAW_PROFILE.match(text)):
            digits = b"".join(found[2].split())
            profile = bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
            if profile[:6] == b"Exif\0\0" or profile[:4] in (b"II*\0", b"MM\0*"):  # APP1 may be XMP
                chunks.exif = profile


def _unpack(packed: bytes) -> bytes | None:
    """Unpack a block of metadata; None if it is broken or too large."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, MAX_METADATA)
    except zlib.error:
        return None
    return unpacked if stream.eof else None
