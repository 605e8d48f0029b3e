"""Machine code for GPUs inside a shared library, of which all but some architectures' is emptied.

The section `.nv_fatbin` holds containers: a header of 16 bytes with the magic number 0xBA55ED50,
the header's and the content's size, then entries of PTX or machine code, each with a header that
gives its kind, its sizes and its architecture (`cuobjdump --list-elf` shows the same). Emptied code
compresses to nothing; the loader of a GPU takes the entry of its own architecture and never reads
the others.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
MAGIC = 0xBA55ED50
MACHINE_CODE = 2  # the kind of an entry; 1 is PTX
ELF_64 = b"\x7fELF\x02\x01"  # 64 bits, little endian
CONTAINER = struct.Struct("<IHHQ")  # magic, version, header's size, content's size
ENTRY = struct.Struct("<HHIQ")  # kind, version, header's size, content's size
ARCHITECTURE_AT, ALIGNMENT = 28, 8


@dataclass(frozen=True)
class Code:
    """One entry: `architecture` as in 90, `start` and `size` of its content in the file."""

    is_machine_code: bool
    architecture: int
    start: int
    size: int


def trim(library: Path, keep: Collection[int]) -> tuple[int, int]:
    """Empty all code in a library but the machine code of architectures `keep`.

    Return the bytes of code that stay, and those that were emptied. Raises ValueError for a file
    that is no 64-bit ELF library, or whose code cannot be read.
    """
    kept = emptied = 0
    with library.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for code in list(read_codes(data)):
            if code.is_machine_code and code.architecture in keep:
                kept += code.size
            else:
                data[code.start : code.start + code.size] = bytes(code.size)
                emptied += code.size
    return kept, emptied


def read_codes(data: mmap.mmap | bytes) -> Iterator[Code]:
    """List the entries of a library's code."""
    for start, size in _sections(data):
        at, end = start, start + size
        while at + CONTAINER.size <= end:
            magic, _, header, content = CONTAINER.unpack_from(data, at)
            if magic != MAGIC:  # padding between containers
                at += ALIGNMENT
                continue
            yield from _entries(data, at + header, at + header + content, end)
            at += -(-(header + content) // ALIGNMENT) * ALIGNMENT


def _entries(data: mmap.mmap | bytes, at: int, last: int, end: int) -> Iterator[Code]:
    if last > end:
        raise ValueError(f"a container of code at {at} ends behind its section")
    while at < last:
        kind, _, header, size = ENTRY.unpack_from(data, at)
        (architecture,) = struct.unpack_from("<I", data, at + ARCHITECTURE_AT)
        if not header or at + header + size > last:
            raise ValueError(f"an entry of code at {at} ends behind its container")
        yield Code(kind == MACHINE_CODE, architecture, at + header, size)
        at += header + size


def _sections(data: mmap.mmap | bytes) -> Iterator[tuple[int, int]]:
    """Return place and size of the sections that hold code."""
    if data[: len(ELF_64)] != ELF_64:
        raise ValueError("this is no 64-bit ELF library")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    each, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + each * i) for i in range(count)]
    names_at = headers[names_index][4]
    for name_at, _, _, _, start, size in headers:
        begin = names_at + name_at
        name = data[begin : data.find(b"\0", begin)]
        if name in SECTIONS:
            yield start, size
