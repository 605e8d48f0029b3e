"""Hostile and damaged bundles: each is refused with one typed error; none is followed or hangs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import COUNTS, draw_bits, flip_bit, forge_manifest
from figures import Figures
from own_process import run_alone
from tiny_bundle import write_tiny_bundle

from samclip.errors import BundleError, IntegrityError, ManifestError, UnsafePathError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.files import check_path
from samclip.runtime.bundles.manifest_file import MAX_MANIFEST_BYTES

BAD_PATHS = {
    "parent": "../encoder.onnx",
    "parent inside": "a/../../encoder.onnx",
    "parent at the end": "a/..",
    "dot": "./encoder.onnx",
    "absolute": "/etc/hostname",
    "two slashes": "//host/share",
    "empty": "",
    "only a slash": "/",
    "empty component": "a//b",
    "slash at the end": "a/",
    "NUL": "a\0b",
    "newline": "a\nb",
    "escape": "a\x1b[2Jb",
    "delete": "a\x7fb",
    "backslash": "a\\b",
    "backslash parent": "..\\encoder.onnx",
    "drive": "C:/encoder.onnx",
    "stream": "encoder.onnx:stream",
    "trailing space": "encoder.onnx ",
    "leading space": " encoder.onnx",
    "space before a slash": "a /b",
    "trailing dot": "encoder.onnx.",
    "three dots": "a/.../b",
    "not NFC": "e\u0301.onnx",
    "right to left": "a\u202eb",
    "zero width": "a\u200bb",
    "line separator": "a\u2028b",
    "device": "aux",
    "device with suffix": "a/COM1.onnx",
    "wildcard": "*.onnx",
    "question": "a?b",
    "redirection": "a>b",
    "long component": "x" * 256,
    "long path": "/".join(["x" * 200] * 6),
    "manifest": "manifest.json",
    "digest": "manifest.sha256",
    "manifest in capitals": "MANIFEST.JSON",
}
ODD_PATHS = {
    "hidden": ".hidden",
    "two dots inside": "a..b",
    "leading dots": "..a",
    "dash": "--help",
    "tilde": "~root",
    "spaces": "the encoder (fp 32), final.onnx",
    "percent": "%2e%2e%2fa",
    "quote": "it's",
    "dollar": "$HOME",
    "accents": "é.onnx",
    "emoji": "🙂",
    "chinese": "编码器/权重.bin",
    "long": "x" * 200,
    "deep": "/".join("abcdefghij"),
    "looks like a device": "com1x",
}

BAD = "bundle: bad paths"
NO_FILE = "bundle: links, pipes, sockets and devices in the place of files"
UNLISTED = "bundle: files that are not listed, or missing"
MALFORMED = "bundle: malformed, nested and oversize manifests and digests"
REFUSED = "refused"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def forge(bundle: Path, change: Callable[[dict[str, Any]], None] | bytes) -> None:
    """Change the manifest and make its digest fit, as an attacker would."""
    if not isinstance(change, bytes):
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        change(manifest)
        change = json.dumps(manifest).encode()
    forge_manifest(bundle, change)


def list_file(bundle: Path, name: str, data: bytes = b"data") -> None:
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge(bundle, lambda manifest: manifest["files"].update({name: entry}))


def refuse(bundle: Path, kind: type[BundleError], match: str | None = None) -> None:
    """Check that the bundle is refused when it is opened, or at the latest when it is verified."""
    with pytest.raises(kind, match=match) as caught:
        Bundle.open(bundle).verify()
    assert type(caught.value) is kind
    assert str(bundle) in str(caught.value)
    assert len(str(caught.value)) < 1000  # no dump of hostile data


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
def test_bad_paths(tiny: Path, path: str, figures: Figures) -> None:
    outside = tiny.parent / "encoder.onnx"
    outside.write_bytes(b"data")
    list_file(tiny, path)
    refuse(tiny, UnsafePathError)
    assert outside.read_bytes() == b"data"
    figures.add(BAD, count=1, found=REFUSED)


@pytest.mark.parametrize("path", ODD_PATHS.values(), ids=ODD_PATHS)
def test_odd_but_valid_paths(tiny: Path, path: str, figures: Figures) -> None:
    (tiny / path).parent.mkdir(parents=True, exist_ok=True)
    (tiny / path).write_bytes(b"data")
    list_file(tiny, path)
    assert Bundle.open(tiny).read(path) == b"data"
    figures.add("bundle: odd but valid paths", count=1, found="read")


def test_lone_surrogate(tiny: Path, figures: Figures) -> None:
    with pytest.raises(UnsafePathError):
        check_path("a\udcffb")
    text = (tiny / "manifest.json").read_text().replace('"licenses/', '"\\udcff/')
    forge(tiny, text.encode())
    refuse(tiny, ManifestError)
    figures.add(BAD, count=1, found=REFUSED)


@pytest.mark.parametrize("pair", [("a/x", "A/x"), ("x", "X"), ("x", "x/y")])
def test_paths_that_collide(tiny: Path, pair: tuple[str, str], figures: Figures) -> None:
    for name in pair:
        list_file(tiny, name)
    refuse(tiny, UnsafePathError, "Rename one")
    figures.add(BAD, count=1, found=REFUSED)


def test_the_same_key_twice(tiny: Path, figures: Figures) -> None:
    text = (tiny / "manifest.json").read_text()
    line = '"decoder.onnx": {"size": 1, "sha256": "' + "0" * 64 + '"},'
    forge(tiny, text.replace('"files": {', '"files": {' + line).encode())
    refuse(tiny, ManifestError, r"'decoder\.onnx' twice")
    figures.add(BAD, count=1, found=REFUSED)


def move_out(path: Path) -> Path:
    """Move a file or folder of the bundle out of it; returns its new place."""
    return path.rename(path.parents[1] / "outside")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the name of a socket may have 108 bytes
        server.bind(path.name)


SWAPS: dict[str, Callable[[Path], Any]] = {
    "symlink": lambda path: path.symlink_to(move_out(path)),
    "relative symlink": lambda path: (move_out(path), path.symlink_to("../outside")),
    "dangling symlink": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "symlink to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "hardlink": lambda path: path.hardlink_to(move_out(path)),
    "hardlinked elsewhere": lambda path: (path.parents[1] / "outside").hardlink_to(path),
    "FIFO": make_fifo,
    "socket": make_socket,
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json", "manifest.sha256"])
def test_links_pipes_and_sockets_are_refused(
    tiny: Path,
    swap: Callable[[Path], Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    figures: Figures,
) -> None:
    monkeypatch.chdir(tiny)  # put back after make_socket
    swap(tiny / name)
    refuse(tiny, UnsafePathError, name)
    figures.add(NO_FILE, count=1, found=REFUSED)


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_files_swapped_after_opening_are_refused(
    tiny: Path, swap: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    """Each file is swapped after the bundle was opened and before it is read."""
    monkeypatch.chdir(tiny)
    bundle = Bundle.open(tiny)
    swap(tiny / "encoder.onnx")
    for use in (bundle.verify, lambda: bundle.source("encoder", "onnxruntime")):
        with pytest.raises(UnsafePathError):
            use()
    figures.add(NO_FILE, count=1, found=REFUSED)


def test_symlinked_parent(tiny: Path, figures: Figures) -> None:
    (tiny / "licenses").symlink_to(move_out(tiny / "licenses"))
    refuse(tiny, UnsafePathError, "'licenses' is a symbolic link")
    figures.add(NO_FILE, count=1, found=REFUSED)


def test_device_file(tiny: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
    """Making a device needs rights, so lstat is made to report one."""
    bundle = Bundle.open(tiny)
    real, null = Path.lstat, Path("/dev/null").stat()
    monkeypatch.setattr(Path, "lstat", lambda p: null if p.name == "encoder.onnx" else real(p))
    with pytest.raises(UnsafePathError, match="not a plain file"):
        bundle.read("encoder.onnx")
    figures.add(NO_FILE, count=1, found=REFUSED)


@pytest.mark.parametrize(
    "name", ["extra", ".hidden", "licenses/extra", "empty folder/", "Encoder.onnx", "a\udcff"]
)
def test_unlisted_files_are_refused(tiny: Path, name: str, figures: Figures) -> None:
    if name.endswith("/"):
        (tiny / name).mkdir()
    else:
        (tiny / name).write_bytes(b"")
    refuse(tiny, IntegrityError, "not in its manifest")
    figures.add(UNLISTED, count=1, found=REFUSED)


def test_listed_file_that_is_a_folder(tiny: Path, figures: Figures) -> None:
    (tiny / "encoder.onnx").unlink()
    (tiny / "encoder.onnx").mkdir()
    refuse(tiny, IntegrityError, "not in its manifest")
    figures.add(UNLISTED, count=1, found=REFUSED)


def test_folder_that_is_a_file(tiny: Path, figures: Figures) -> None:
    list_file(tiny, "folder/file")
    (tiny / "folder").write_bytes(b"data")
    refuse(tiny, IntegrityError, "not in its manifest")
    figures.add(UNLISTED, count=1, found=REFUSED)


def test_missing_file(tiny: Path, figures: Figures) -> None:
    (tiny / "decoder.onnx").unlink()
    refuse(tiny, IntegrityError, r"'decoder\.onnx' is missing")
    figures.add(UNLISTED, count=1, found=REFUSED)


LYING_SIZES = (0, 1, 10**4, 2**33, 2**33 + 1, 2**40, 2**40 + 1, 2**70, -1, 1.5)
OPEN_ALL = """
import json, sys
from own_process import peak
from samclip.errors import IntegrityError, ManifestError
from samclip.runtime.bundles.bundle import Bundle

before, opened = peak(), []
for path in sys.argv[1:]:
    try:
        Bundle.open(path)
        opened.append(path)
    except (IntegrityError, ManifestError):
        pass
print(json.dumps([opened, peak() - before]))
"""


def test_lying_sizes(tmp_path: Path, figures: Figures) -> None:
    """Nothing is allocated for a size that only the manifest claims."""
    bundles = [write_tiny_bundle(tmp_path / str(size)) for size in LYING_SIZES]
    for bundle, size in zip(bundles, LYING_SIZES, strict=True):
        list_size(bundle, size)
    opened, grown = run_alone(OPEN_ALL, *bundles)
    assert opened == []
    assert grown < 20e6  # bytes
    found = "refused, less than 20 MB more memory"
    figures.add("bundle: lying sizes", count=len(bundles), found=found)


def list_size(bundle: Path, size: float) -> None:
    forge(bundle, lambda manifest: manifest["files"]["encoder.onnx"].update(size=size))


def test_sparse_file_of_a_terabyte(tiny: Path, figures: Figures) -> None:
    list_file(tiny, "sparse")
    forge(tiny, lambda manifest: manifest["files"]["sparse"].update(size=2**40))
    with (tiny / "sparse").open("wb") as file:
        try:
            file.truncate(2**40)
        except OSError:
            pytest.skip("this file system has no files of a terabyte")
    refuse(tiny, ManifestError, str(2**33))
    figures.add("bundle: sparse file of a terabyte", count=1, found=REFUSED)


BAD_MANIFESTS = {
    "empty": b"",
    "no JSON": b"hello",
    "an array": b"[]",
    "null": b"null",
    "no UTF-8": b'{"name": "\xff"}',
    "truncated": b'{"name": "tiny"',
    "too large": b"{" + b" " * MAX_MANIFEST_BYTES + b"}",
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep in a known field": b'{"parity":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "long number": b'{"schema_version": ' + b"9" * 100_000 + b"}",
    "another schema": b'{"schema_version": 2}',
    "not a number": b'{"schema_version": NaN}',
}


@pytest.mark.parametrize("data", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifests(tiny: Path, data: bytes, figures: Figures) -> None:
    forge(tiny, data)
    refuse(tiny, ManifestError)
    figures.add(MALFORMED, count=1, found=REFUSED)


BAD_VALUES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a version of 5000 digits": lambda m: m["graphs"]["encoder"]["variants"][1].update(
        needs=[{"backend": "tensorrt", "version": "9" * 5000}]
    ),
    "pixels divided by 0": lambda m: m["preprocessing"].update(std=[58.0, 0.0, 57.0]),
    "a negative deviation": lambda m: m["preprocessing"].update(std=[58.0, -1.0, 57.0]),
    "an image of terapixels": lambda m: m["preprocessing"].update(image_size=2**20),
    "gigabytes of tokens": lambda m: m.update(
        text={
            "model": "m", "space": "0" * 64, "embed_dim": 4, "logit_scale": 1.0,
            "templates": "openai", "context_length": 2**31,
        }
    ),
    "no variants": lambda m: m["graphs"]["encoder"].update(variants=[]),
    "an unknown field": lambda m: m.update(run="rm -rf /"),
    "files as a list": lambda m: m.update(files=[]),
    "a digest in capitals": lambda m: m["files"]["encoder.onnx"].update(sha256="A" * 64),
}  # fmt: skip


@pytest.mark.parametrize("change", BAD_VALUES.values(), ids=BAD_VALUES)
def test_values_that_would_do_harm_later(
    tiny: Path, change: Callable[[dict[str, Any]], Any], figures: Figures
) -> None:
    forge(tiny, change)
    refuse(tiny, ManifestError)
    figures.add(MALFORMED, count=1, found=REFUSED)


@pytest.mark.parametrize(
    "digest",
    [b"", b"\n", b"0" * 64 + b"  manifest.json\n", b"x" * 2000, b"{sum}", b"{sum}  other.json"],
)
def test_bad_digests(tiny: Path, digest: bytes, figures: Figures) -> None:
    right = hashlib.sha256((tiny / "manifest.json").read_bytes()).hexdigest().encode()
    (tiny / "manifest.sha256").write_bytes(digest.replace(b"{sum}", right))
    with pytest.raises((IntegrityError, ManifestError)):
        Bundle.open(tiny)
    figures.add(MALFORMED, count=1, found=REFUSED)


def references(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["graphs"]["encoder"]["variants"][0].update(file=name)


@pytest.mark.parametrize("name", ["../encoder.onnx", "/etc/hostname", "nothing", "manifest.json"])
def test_graphs_that_are_not_listed(tiny: Path, name: str, figures: Figures) -> None:
    forge(tiny, references(name))
    refuse(tiny, ManifestError, "does not list it")
    figures.add(BAD, count=1, found=REFUSED)


FILES = ["manifest.json", "manifest.sha256", "encoder.onnx", "weights.safetensors"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FILES)
def test_truncation(tiny: Path, name: str, count: int, figures: Figures) -> None:
    data = (tiny / name).read_bytes()
    shortest = len(data) - 1 if name != "manifest.sha256" else len(data) - 2  # its newline may go
    for length in np.linspace(0, shortest, count).astype(int):
        (tiny / name).write_bytes(data[:length])
        with pytest.raises((IntegrityError, ManifestError)):
            Bundle.open(tiny).verify()
    figures.add(f"bundle: {name} truncated", count=count, found=REFUSED)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FILES)
def test_bit_flips(
    tiny: Path, name: str, count: int, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    """Refused by SHA-256, before any parser sees a byte."""
    monkeypatch.setattr("samclip.runtime.bundles.bundle.parse_weights", unreachable)
    if name.startswith("manifest"):
        monkeypatch.setattr("samclip.runtime.bundles.manifest_file.decode_manifest", unreachable)
    data, harmless = (tiny / name).read_bytes(), 0
    for bit in draw_bits(data, count):
        flipped = flip_bit(data, bit)
        (tiny / name).write_bytes(flipped)
        if name == "manifest.sha256" and flipped.rstrip(b"\r\n") == data.rstrip():
            harmless += 1
            continue
        with pytest.raises(IntegrityError, match="SHA-256"):
            Bundle.open(tiny).source("encoder", "onnxruntime")
    found = f"{count - harmless} refused by SHA-256 before any parser sees a byte"
    ends = f", {harmless} harmless: another line end after the digest" if harmless else ""
    figures.add(f"bundle: {name} with a flipped bit", count=count, found=found + ends)


def unreachable(*_: object) -> None:
    raise AssertionError("a parser saw bytes that were not verified")


def test_growing_file(tiny: Path) -> None:
    bundle = Bundle.open(tiny)
    with (tiny / "encoder.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(IntegrityError, match="the manifest says"):
        bundle.read("encoder.onnx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tiny: Path) -> None:
    (tiny / "encoder.onnx").chmod(0)
    with pytest.raises(IntegrityError, match="Permission denied"):
        Bundle.open(tiny).read("encoder.onnx")
