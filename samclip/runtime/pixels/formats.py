"""Formats of files by their first bytes: those that are read, and known ones that are not.

A file's name never decides. `sniff` names the format of a readable file; `describe` says of any
file what it is, for messages.
"""

from __future__ import annotations

import os
import stat
from os import PathLike
from pathlib import Path
from typing import Any

# For `os.open`. NONBLOCK: a FIFO without a writer would never open. BINARY is on Windows only.
READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
HEAD_BYTES = 64  # `sniff` and `describe` need as many, or the whole of a shorter file
READABLE = "JPEG, PNG, WebP, BMP, TIFF, GIF and PPM"
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),  # .jpg, .jpe, .jfif, and .mpo, whose first picture it is
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    *((b"P%d" % kind, "PPM") for kind in range(1, 7)),  # PBM, PGM and PPM
)
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # bytes, by version
PPM_SEPARATORS = frozenset(b" \t\n\v\f\r#")
# First bytes -> what a file is that is not read.
REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"FUJIFILMCCD-RAW", "a camera raw file (Fujifilm RAF)"),
    (b"IIRO", "a camera raw file (Olympus ORF)"),
    (b"IIRS", "a camera raw file (Olympus ORF)"),
    (b"MMOR", "a camera raw file (Olympus ORF)"),
    (b"IIU\0", "a camera raw file (Panasonic RW2)"),
    (b"FOVb", "a camera raw file (Sigma X3F)"),
    (b"\0MRM", "a camera raw file (Minolta MRW)"),
    (b"II\x1a\0\0\0HEAPCCDR", "a camera raw file (Canon CRW)"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"8BPS", "a Photoshop document"),
    (b"8BPB", "a Photoshop document"),
    (b"\0\0\x01\0", "a Windows icon"),
    (b"\0\0\x02\0", "a Windows cursor"),
    (b"icns", "an Apple icon"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"II\xbc", "a JPEG XR image"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"#?RGBE", "a Radiance HDR image"),
    (b"SIMPLE  =", "a FITS file"),
    (b"DDS ", "a DirectDraw texture"),
    (b"qoif", "a QOI image"),
    (b"PF\n", "a PFM image"),
    (b"Pf\n", "a PFM image"),
    (b"P7\n", "a PAM image"),
    (b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG image"),
    (b"gimp xcf", "a GIMP document"),
    (b"AT&TFORM", "a DjVu document"),
    (b"BPG\xfb", "a BPG image"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a numpy array: pass numpy.load(path)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"\0\0\x01\xba", "an MPEG video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an audio file"),
    (b"fLaC", "an audio file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file with `git lfs pull`"),
    (b"data:image/", "a data URL: pass the bytes, base64.b64decode(text.split(',')[1])"),
)
BRANDS = {  # of ISO base media files, at byte 8
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"crx ": "a camera raw file (Canon CR3)",
    b"jxl ": "a JPEG XL image",
    b"qt  ": "a QuickTime video",
} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC image"
)


def sniff(head: bytes) -> str | None:
    """Return the format of a file that samclip reads, from its first `HEAD_BYTES` bytes.

    "JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF" or "PPM"; None for anything else. The file behind
    these bytes may still be damaged, too large, or of a rare kind.
    """
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            is_text = name == "PPM" and not PPM_SEPARATORS.issuperset(head[2:3])
            return None if is_text else name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if head[:4] in TIFF_SIGNATURES and head[8:10] != b"CR":
        return "TIFF"
    return None


def describe(head: bytes) -> str:
    """Return what a file is, from its first `HEAD_BYTES` bytes: "a HEIC image", "a text file"."""
    readable = sniff(head)
    if readable is not None:
        return f"a {readable} image"
    if head[:4] in TIFF_SIGNATURES:
        return "a camera raw file (Canon CR2)"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "a video or another MPEG-4 file")
    if head[:4] == b"RIFF":
        return {b"WAVE": "an audio file", b"AVI ": "a video"}.get(head[8:12], "a RIFF file")
    if head[1:3] in (b"\0\2", b"\0\3", b"\0\n") and head[3:8] == bytes(5) and any(head[12:16]):
        return "a Targa image"  # by its shape; a cursor counts its pictures in these bytes
    by_signature = (what for signature, what in REFUSED if head.startswith(signature))
    return next(by_signature, None) or _describe_text(head)


def _describe_text(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
    kinds = (
        (not head, "an empty file"),
        (start.startswith((b"<svg", b"<?xml")), "an SVG or another XML document"),
        (
            start.startswith((b"<!doctype", b"<html", b"<head")),
            "an HTML page, perhaps in place of a download that failed",
        ),
        (not any(head), "a file of zeros"),
        (printable == len(head), "a text file"),
    )
    return next((what for fits, what in kinds if fits), "a file of an unknown kind")


def read_head(path: str | bytes | PathLike[Any]) -> bytes:
    """Return a file's first `HEAD_BYTES` bytes; none of what is not a plain file.

    Links are followed. Never waits on a pipe or device. Raises OSError.
    """
    mode = Path(os.fsdecode(path)).stat().st_mode
    if not stat.S_ISREG(mode):  # opening a device may have effects
        return b""
    descriptor = os.open(path, READ_FLAGS)
    try:
        is_plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, HEAD_BYTES) if is_plain else b""
    finally:
        os.close(descriptor)


def is_image_file(path: str | bytes | PathLike[Any]) -> bool:
    """Whether a file's first bytes are those of a format that samclip reads.

    False for what cannot be opened, is not a plain file, or is of another kind.
    """
    try:
        return sniff(read_head(path)) is not None
    except TimeoutError:  # a caller's time limit
        raise
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False
