"""JPEG files: their segments, bounds on the work, and a decoding that notices missing data.

libjpeg fills what is missing with grey and only counts a warning, which Pillow does not pass on.
So the compressed data of each scan are fed to its decoder without the marker that ends them. The
decoder then asks for more. Whether it still asks for blocks, or already looks for a marker, shows
in what it leaves of a few bytes of padding: it reads blocks through a buffer of some 7 bytes, and
skips whatever comes before a marker at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil
from typing import Any

from PIL.JpegImagePlugin import JpegImageFile

from samclip.runtime.pixels.picture import DAMAGED, HeaderError, Pause, Picture, check_size, reserve
from samclip.runtime.pixels.streams import Feeder

SOI, EOI, SOS, DHT, DQT, DRI, DAC = 0xD8, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD, 0xCC
APP0, APP1, APP2, APP14, COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
METADATA = frozenset({*range(0xE0, 0xF0), COM})
FRAMES = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, DAC}
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), (0xC2,)
NOT_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)  # ends a scan's compressed data
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
NEVER = 16  # bits of a coefficient that are missing before its first scan
MAX_SEGMENTS = 10_000  # metadata of 64 KB each among them
MAX_SCANS = 100  # usual progressive files have about 10
MAX_SCAN_PIXELS = 3 * 2**29  # scans times pixels: some seconds of work
MAX_PROBED = 4096  # intervals between restart markers that are looked at one by one
BLOCK = 2**18  # bytes fed at once; pauses are in between
ZEROS = bytes(64)  # as a lost sector has; else only flat pictures with tables made for them
TAIL = 16  # bytes held back at the end of compressed data; decoders read 8 ahead
PADDING = b"\xff\x00"  # stands for a byte 255: in no Huffman table is a code of ones alone
SHORT, SURPLUS = "end before the picture does", "are more than the picture needs"


@dataclass
class Scan:
    """One scan: the tables and header before its compressed data, and where these lie."""

    header: bytes
    start: int
    end: int
    interval: int  # blocks' groups (MCUs) between restart markers; 0 for none
    groups: int
    zeros_are_flat: bool  # a run of zero bits says: no change, no detail


@dataclass
class Jpeg:
    """What a file's segments say. Metadata are kept apart, so that they cannot spoil decoding."""

    frame: int = 0
    width: int = 0
    height: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)  # id -> sampling (h, v)
    interval: int = 0
    has_adobe: bool = False
    has_end: bool = False
    scans: list[Scan] = field(default_factory=list)
    exif: bytearray = field(default_factory=bytearray)  # of all its segments
    xmp: bytes | None = None
    icc_parts: dict[int, bytes] = field(default_factory=dict)
    # For each component, how many low bits of each of the 64 coefficients are still missing.
    missing_bits: dict[int, list[int]] = field(default_factory=dict)
    # For each Huffman table, class and number in a byte, what a code of zeros means.
    zero_codes: dict[int, int] = field(default_factory=dict)

    @property
    def icc(self) -> bytes | None:
        """The colour profile, if all its parts are there."""
        count = len(self.icc_parts)
        whole = sorted(self.icc_parts) == list(range(1, count + 1))
        return b"".join(self.icc_parts[i] for i in range(1, count + 1)) if count and whole else None


def read_jpeg(data: bytes, max_pixels: int, pause: Pause, longest: int | None = None) -> Picture:
    """Decode a JPEG file's first picture; `longest` as in `decode_bytes`.

    `pause` is called between pieces of the work, and may raise. Raises HeaderError for files that
    are damaged, too large or of a rare kind.
    """
    jpeg = parse_jpeg(data)
    check_size((jpeg.width, jpeg.height), max_pixels)
    _check_work(jpeg)
    picture = _decode(data, jpeg, longest, pause)
    if not jpeg.has_end and jpeg.frame in SEQUENTIAL + PROGRESSIVE:
        _check_cut(data, jpeg, picture, longest)
    return picture


def parse_jpeg(data: bytes) -> Jpeg:
    """Read the segments up to the first picture's end; raises HeaderError."""
    jpeg, position, tables = Jpeg(), 2, bytearray()
    for _ in range(MAX_SEGMENTS):
        marker, start = _next_marker(data, position)
        if marker in (SOI, EOI):  # SOI: another picture follows, and the end is missing
            jpeg.has_end = marker == EOI
            break
        if marker is None:
            break
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if start + 4 <= end <= len(data):
            position = end
            if _read_segment(jpeg, marker, data[start + 4 : end]):
                tables += data[start:end]
            if marker == SOS:
                position = _start_scan(jpeg, bytes(tables), data, start, end)
                tables = bytearray()
        elif marker in METADATA:
            position = start + 2  # a wrong length; go on at the next marker
        else:
            raise HeaderError(DAMAGED)
    else:
        raise HeaderError(f"has more than {MAX_SEGMENTS:,} segments: save it again")
    if not jpeg.scans:
        raise HeaderError("is truncated or damaged, it has no pixels: copy or download it again")
    return jpeg


def _next_marker(data: bytes, position: int) -> tuple[int | None, int]:
    """Find the next marker, and where it is; None at the file's end."""
    found = NOT_DATA.search(data, position)
    while found is not None and found[0] == b"\xff\xff":  # markers may be padded
        found = NOT_DATA.search(data, found.start() + 1)
    return (None, len(data)) if found is None else (found[0][1], found.start())


def _read_segment(jpeg: Jpeg, marker: int, body: bytes) -> bool:
    """Take what is used of a segment; whether the decoder needs it, too."""
    if marker in METADATA:
        return _read_metadata(jpeg, marker, body)
    if marker in FRAMES:
        _read_frame(jpeg, marker, body)
    elif marker == DRI:
        jpeg.interval = int.from_bytes(body[:2], "big")
    elif marker == DHT:
        _read_huffman(jpeg, body)
    elif marker not in (SOS, DQT, DAC):
        raise HeaderError(
            f"is damaged, it has a marker 0x{marker:02X} that no JPEG file has there: copy or "
            "download it again"
        )
    return True


def _read_frame(jpeg: Jpeg, marker: int, body: bytes) -> None:
    if jpeg.frame or len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise HeaderError("is damaged, its frame makes no sense: copy or download it again")
    if body[0] != 8:
        raise HeaderError(f"is a JPEG of {body[0]} bits a sample: convert it to 8 bits")
    jpeg.frame = marker
    jpeg.height, jpeg.width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
    for i in range(6, 6 + 3 * body[5], 3):
        jpeg.components[body[i]] = (body[i + 1] >> 4, body[i + 1] & 15)
        jpeg.missing_bits[body[i]] = [NEVER] * 64
    samplings = jpeg.components.values()
    if len(samplings) not in (1, 3, 4) or any(not 1 <= s <= 4 for pair in samplings for s in pair):
        raise HeaderError(f"is a JPEG of {body[5]} components: convert it to RGB")


def _read_huffman(jpeg: Jpeg, body: bytes) -> None:
    """Note the first symbol of each table, whose code is the shortest, of zeros."""
    while len(body) > 17:
        jpeg.zero_codes[body[0]] = body[17]
        body = body[17 + sum(body[1:17]) :]


def _count_groups(jpeg: Jpeg, components: bytes) -> int:
    """Count the MCUs of a scan: blocks of one component, or groups of blocks of several."""
    h_most, v_most = (max(s[i] for s in jpeg.components.values()) for i in (0, 1))
    width, height, h, v = jpeg.width, jpeg.height, h_most, v_most
    if len(components) == 1:
        h, v = jpeg.components[components[0]]
        width, height = ceil(width * h / h_most), ceil(height * v / v_most)
        h = v = 1
    return ceil(width / (8 * h)) * ceil(height / (8 * v))


def _start_scan(jpeg: Jpeg, header: bytes, data: bytes, start: int, end: int) -> int:
    """Read a scan's header, data[start:end], and find the end of its data."""
    body = data[start + 4 : end]
    count = body[0] if body else 0
    if not jpeg.frame or not 1 <= count <= 4 or len(body) < 4 + 2 * count:
        raise HeaderError("is damaged, a scan makes no sense: copy or download it again")
    if len(jpeg.scans) == MAX_SCANS:
        raise HeaderError(f"has more than {MAX_SCANS} scans: save it again")
    components, selectors = body[1 : 1 + 2 * count : 2], body[2 : 2 + 2 * count : 2]
    first, last, shifts = body[1 + 2 * count :][:3]
    before, after = shifts >> 4 or NEVER, shifts & 15
    if jpeg.frame not in PROGRESSIVE:
        first, last, before, after = 0, 63, NEVER, 0
    for component in components:
        bits = jpeg.missing_bits.get(component, [])
        if set(bits[first : last + 1]) != {before} or last > 63:  # of a scan before it, lost
            raise HeaderError("is damaged, a scan makes no sense: copy or download it again")
        bits[first : last + 1] = [after] * (last + 1 - first)
    tables = [s >> 4 for s in selectors] + [0x10 | s & 15 for s in selectors]
    flat = jpeg.frame not in SEQUENTIAL or not any(jpeg.zero_codes.get(t, 0) for t in tables)
    found = NOT_DATA.search(data, end)
    stop = len(data) if found is None else found.start()
    groups = _count_groups(jpeg, components)
    jpeg.scans.append(Scan(header, end, stop, jpeg.interval, groups, flat))
    return stop


def _read_metadata(jpeg: Jpeg, marker: int, body: bytes) -> bool:
    """Take what is used of an application segment or comment; whether the decoder needs it, too."""
    if marker == APP0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == APP14:
        jpeg.has_adobe = body.startswith(b"Adobe") and len(body) >= 12
        return jpeg.has_adobe
    if marker == APP1 and body.startswith(b"Exif\0\0"):
        jpeg.exif += body[6:] if jpeg.exif else body
    elif marker == APP1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        jpeg.xmp = body
    elif marker == APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
        jpeg.icc_parts[body[12]] = body[14:]
    return False


def _check_work(jpeg: Jpeg) -> None:
    """Check that the picture is whole by its scans' headers, and that they are not too many."""
    lacking = any(any(bits) for bits in jpeg.missing_bits.values())
    if lacking and jpeg.frame in SEQUENTIAL + PROGRESSIVE:
        raise HeaderError("is truncated, scans are missing: copy or download it again")
    pixels = jpeg.width * jpeg.height
    if len(jpeg.scans) * pixels > MAX_SCAN_PIXELS:
        raise HeaderError(
            f"has {jpeg.width} x {jpeg.height} pixels in {len(jpeg.scans)} scans, at most "
            f"{MAX_SCAN_PIXELS // pixels} scans of this size are read: save it again"
        )


def _open(jpeg: Jpeg, longest: int | None) -> tuple[JpegImageFile, tuple[str, Any]]:
    """Open the file without its metadata; the image, and its decoder's arguments."""
    image = JpegImageFile(BytesIO(b"\xff\xd8" + jpeg.scans[0].header))
    if longest is not None and max(image.size) >= 2 * longest:
        scale = longest / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image.draft("RGB", (width, height))
    # Adobe stores CMYK inverted, and says so by its marker.
    inverted = image.mode == "CMYK" and jpeg.has_adobe
    args = image.tile[0].args
    return image, ("CMYK;I" if inverted else image.mode, args[1] if isinstance(args, tuple) else "")


def _wants_blocks(feeder: Feeder, one: bytes, other: bytes) -> bool:
    """Feed two pieces of a few bytes; whether the decoder kept some of them for its blocks."""
    return max(feeder.feed(one), feeder.feed(other)) >= 2 if not feeder.finished else False


def _decode(
    data: bytes,
    jpeg: Jpeg,
    longest: int | None,
    pause: Pause,
    padding: bytes = PADDING,
) -> Picture:
    image, arguments = _open(jpeg, longest)
    many = len(jpeg.scans) > 1 or jpeg.frame not in SEQUENTIAL
    if many:  # libjpeg keeps all coefficients, 2 bytes each, up to one for each sample
        reserve(2 * jpeg.width * jpeg.height * len(jpeg.components))
    feeder = Feeder(image, "is damaged: copy or download it again", arguments)
    feeder.feed(b"\xff\xd8")
    for scan in jpeg.scans:
        feeder.feed(scan.header)
        if jpeg.frame in SEQUENTIAL + PROGRESSIVE:
            _feed_scan(feeder, data, scan, pause, padding)
        else:  # the decoder of arithmetic codes wants all at once
            feeder.feed(data[scan.start : scan.end])
    feeder.feed(b"\xff\xd9")
    if not feeder.finished:
        raise HeaderError(_damage(SHORT))
    image.tile = []
    return Picture(image, bytes(jpeg.exif) or None, jpeg.xmp, jpeg.icc)


def _damage(what: str) -> str:
    return f"is truncated or damaged, its data {what}: copy or download it again"


def _feed_scan(feeder: Feeder, data: bytes, scan: Scan, pause: Pause, padding: bytes) -> None:
    """Feed a scan's data, interval by interval; raises HeaderError where blocks do not fit."""
    bounds = list(_intervals(data, scan))
    if len(bounds) != (ceil(scan.groups / scan.interval) if scan.interval else 1):
        raise HeaderError(_damage("lack a restart marker"))
    if not scan.zeros_are_flat and data.find(ZEROS, scan.start, scan.end - TAIL) >= 0:
        raise HeaderError(_damage("have a gap of zeros"))
    if len(bounds) > MAX_PROBED:  # their markers' order was checked
        bounds = [(scan.start, scan.end)]
    for start, end in bounds:
        if start != scan.start:
            feeder.feed(data[start - 2 : start])  # the restart marker
        _feed_interval(feeder, data, start, end, pause, padding)


def _feed_interval(
    feeder: Feeder, data: bytes, start: int, end: int, pause: Pause, padding: bytes
) -> None:
    inner = max(start, end - TAIL)
    pause()
    for position in range(start, inner, BLOCK):
        pause()
        feeder.feed(data[position : min(inner, position + BLOCK)])
    tail = data[inner:end]
    if len(tail) == TAIL and any(tail):  # zeros may be padding
        wants = _wants_blocks(feeder, tail[:3], tail[3:6])
        if feeder.finished or not wants:
            raise HeaderError(_damage(SURPLUS))
        feeder.feed(tail[6:])
    else:
        feeder.feed(tail)
    for _ in range(8):  # as many as a decoder reads ahead
        feeder.feed(padding)
    if _wants_blocks(feeder, padding * 3, padding * 2):
        raise HeaderError(_damage(SHORT))


def _intervals(data: bytes, scan: Scan) -> Iterator[tuple[int, int]]:
    """Yield start and end of the data between restart markers; HeaderError if one is missing."""
    start = scan.start
    for number, found in enumerate(RESTART.finditer(data, scan.start, scan.end)):
        if not scan.interval or found[0][1] != 0xD0 + number % 8:
            raise HeaderError(_damage("lack a restart marker"))
        yield start, found.start()
        start = found.end()
    yield start, scan.end


def _check_cut(data: bytes, jpeg: Jpeg, picture: Picture, longest: int | None) -> None:
    """Check that a file without an end marker has all of its last block, too.

    Decoded with other padding, its pixels must be the same.
    """
    other = _decode(data, jpeg, longest, lambda: None, b"\0")
    if other.image.tobytes() != picture.image.tobytes():
        raise HeaderError(_damage(SHORT))
