"""Kinds of files that are given as weights, known by their first bytes and their names.

The suffix decides nothing: hubs and people rename files. What is not weights is named, with what to
do about it.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO, Literal

Kind = Literal["safetensors", "torch zip", "torch legacy"]

HEAD_BYTES = 4096
SAFETENSORS_HEADER = 8  # bytes of its length, in front of it
MAX_HEADER_BYTES = 2**25  # of a safetensors file; those of merged models hold a tokenizer, 0.5 MB
PICKLE_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
TAR_PLACE, TAR_MARK = 257, b"ustar"

LFS_MARK = b"version https://git-lfs.github.com/spec/"
UNFINISHED = re.compile(r"\.(part|partial|crdownload|download|incomplete|aria2|tmp|opdownload)$")
AGAIN = "Download it again: in full, and the file itself rather than the page about it."
GRAPHS = {".onnx", ".engine", ".plan", ".tflite", ".mlmodel", ".pb"}
UNPACK = "Unpack it, and give the checkpoint inside."

MARKS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x93NUMPY", "a NumPy array", "Give the model's checkpoint."),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "Only PyTorch weights are read."),
    (b"GGUF", "a GGUF file", "Give the original weights in safetensors or of torch."),
    (b"\x89PNG", "a picture", "Give the model's checkpoint."),
    (b"\xff\xd8\xff", "a picture", "Give the model's checkpoint."),
    (b"GIF8", "a picture", "Give the model's checkpoint."),
    (b"%PDF", "a PDF document", "Give the model's checkpoint."),
    (b"\x7fELF", "a program or library", "Give the model's checkpoint."),
    (b"\x08\x07\x12\x07pytorch", "an ONNX graph", "Give the checkpoint that it was made from."),
)


def sniff(head: bytes, size: int) -> Kind | None:
    """Return the format of a file of `size` bytes that begins with `head`; None for another."""
    length = int.from_bytes(head[:SAFETENSORS_HEADER], "little")
    begins = head[SAFETENSORS_HEADER : SAFETENSORS_HEADER + 1] == b"{"
    if begins and 0 < length <= size - SAFETENSORS_HEADER:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    is_pickle = head[:1] == b"\x80" and head[1:2] in PICKLE_PROTOCOLS
    return "torch legacy" if is_pickle else None


def read_head(file: BinaryIO) -> bytes:
    """Return the first bytes of a file, and go back to its start."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def describe_foreign(path: Path, head: bytes, size: int) -> str:
    """Return what a file that is not weights is, and what to do, as in "it is empty. ..."."""
    if size == 0:
        return f"it is empty. {AGAIN}"
    found = UNFINISHED.search(path.name.lower())
    if found is not None and not head.startswith(LFS_MARK):
        return f"its name ends in {found[0]}, so it is an unfinished download. {AGAIN}"
    return (
        _describe_marked(head)
        or _describe_suffix(path)
        or _describe_text(head)
        or f"it is neither in safetensors nor written by torch.save. {AGAIN}"
    )


def _describe_marked(head: bytes) -> str:
    """Describe a file by its first bytes; "" for an unknown one."""
    if head.startswith(LFS_MARK):
        return (
            "it is a Git LFS pointer, the note that stands in a repository for the file itself"
            f"{_lfs_size(head)}. Fetch the file: git lfs pull, in that repository, or download it "
            "from the hub."
        )
    if head[TAR_PLACE : TAR_PLACE + len(TAR_MARK)] == TAR_MARK:
        return (
            "it is a tar file. Unpack it if it holds a checkpoint; if it is one of torch older "
            "than 0.1.10, save it again with a newer one where you trust it."
        )
    if not head.strip(b"\0"):
        return f"it begins with zeros, as unfinished downloads do. {AGAIN}"
    for mark, kind, remedy in MARKS:
        if head.startswith(mark):
            return f"it is {kind}. {remedy}"
    return ""


def _describe_suffix(path: Path) -> str:
    if path.suffix.lower() in GRAPHS:
        return f"it is a graph, by its suffix {path.suffix}. Give the checkpoint it was made from."
    return ""


def _lfs_size(head: bytes) -> str:
    found = re.search(rb"^size (\d{1,15})\r?$", head, re.MULTILINE)
    return f", of {int(found[1]):,} bytes" if found else ""


def _as_text(head: bytes) -> str | None:
    """Return the beginning of a text in one line; None for anything else."""
    try:
        text = io.TextIOWrapper(io.BytesIO(head), "utf-8-sig").read()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) < HEAD_BYTES:  # not just cut inside a character
            return None
        text = head[: error.start].decode("utf-8", "replace")
    line = " ".join(text.split())
    return line if line and line.isprintable() else None


def _describe_text(head: bytes) -> str:
    line = _as_text(head)
    if line is None:
        return ""
    lower, shown = line.lower(), f"{line[:80]!r}"
    if lower.startswith("<?xml") or lower.startswith("<error"):
        return f"it is an XML document, such as a server's error message: {shown}. {AGAIN}"
    if lower.startswith("<") and re.search(r"<(!doctype html|html|head|body)", lower):
        return f"it is a web page, not weights. {AGAIN}"
    if line[0] in "{[":
        return f"it is a JSON document, such as a server's error message: {shown}. {AGAIN}"
    return f"it is a text, such as a server's error message: {shown}. {AGAIN}"
