"""The manifest as a file: encoding, decoding, and the checks around them.

The SHA-256, and the signature if one is asked for, are checked before anything is parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from samclip.errors import IntegrityError, ManifestError
from samclip.runtime.bundles.files import check_paths, check_tree, read_capped
from samclip.runtime.bundles.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    MAX_BUNDLE_BYTES,
    MAX_FILE_BYTES,
    SCHEMA_VERSION,
    Manifest,
)
from samclip.runtime.bundles.signature import PublicKey, check_signature

MAX_MANIFEST_BYTES = 1_000_000
MAX_DIGEST_BYTES = 1024
MAX_GRAPH_BYTES = 2**31 - 1  # of protobuf; large weights are in other files
MAX_TOKENIZER_BYTES = 2**26  # CLIP's has 2 MB, those of many languages 17 MB
MAX_LABELS_BYTES = 2**24
MAX_LABEL_EMBEDDINGS_BYTES = 2**30


def read_checked(root: Path, public_key: PublicKey | None = None) -> Manifest:
    """Read the manifest of the bundle in `root`, and check that the directory is what it describes.

    The files' contents are not read. Raises as `read_manifest`, `check_paths`, `check_manifest` and
    `check_tree` do.
    """
    manifest = read_manifest(root, public_key)
    check_paths(manifest.files)
    check_manifest(manifest)
    check_tree(root, manifest.files)
    return manifest


def read_manifest(root: Path, public_key: PublicKey | None = None) -> Manifest:
    """Read the manifest of the bundle in `root`; its SHA-256 is checked before it is parsed.

    With a key the signature is checked first of all. Raises ManifestError, IntegrityError,
    SignatureError or UnsafePathError.
    """
    for name in (MANIFEST_NAME, DIGEST_NAME):
        if not os.path.lexists(root / name):
            raise ManifestError(
                f"{root} is not a complete bundle: {name} is missing. Copy or export it again."
            )
    data = read_capped(root, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if public_key is not None:
        check_signature(root, data, public_key)
    line = read_capped(root, DIGEST_NAME, MAX_DIGEST_BYTES)
    if line.rstrip(b"\r\n") != digest_line(data).rstrip(b"\n"):
        raise IntegrityError(
            f"{MANIFEST_NAME} of {root} has SHA-256 {hashlib.sha256(data).hexdigest()}, "
            f"{DIGEST_NAME} says {line[:64].decode('ascii', 'replace')}: one of them is damaged. "
            "Copy the bundle again, or export it again."
        )
    manifest = decode_manifest(data)
    json.loads(data, object_pairs_hook=_refuse_duplicates)
    return manifest


def decode_manifest(data: bytes) -> Manifest:
    """Parse the bytes of a manifest; raises ManifestError when they are not a valid one."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"{MANIFEST_NAME} has {len(data):,} bytes; at most {MAX_MANIFEST_BYTES:,} are "
            "accepted. Export the bundle again."
        )
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(
            f"{MANIFEST_NAME} is not a valid manifest of schema {SCHEMA_VERSION}: {error}. "
            "Export the bundle again with this version of samclip."
        ) from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Serialise a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def manifest_sha256(root: Path) -> str:
    """Return the SHA-256 of a bundle's manifest file, which tells it from other bundles."""
    return hashlib.sha256((root / MANIFEST_NAME).read_bytes()).hexdigest()


def digest_line(data: bytes) -> bytes:
    """Return the line that `sha256sum manifest.json` writes for a manifest of these bytes."""
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_NAME}\n".encode()


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object with a repeated key, of which msgspec would keep the last."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(
            f"{MANIFEST_NAME} has the key {twice[:80]!r} twice in one object. Export the bundle "
            "again."
        )


def check_manifest(manifest: Manifest) -> None:
    """Check what the parts of a manifest say of each other; raises ManifestError.

    Every file that it refers to is listed, with a size that fits what it is for; all together
    have at most MAX_BUNDLE_BYTES; names and images are embedded in as many dimensions.
    """
    for name, limit in _references(manifest):
        entry = manifest.files.get(name)
        if entry is None:
            raise _invalid(f"refers to {name!r} but does not list it under files")
        if entry.size > limit:
            raise _invalid(
                f"lists {name!r} with {entry.size:,} bytes; for what it is, at most {limit:,} are "
                "accepted"
            )
    total = sum(entry.size for entry in manifest.files.values())
    if total > MAX_BUNDLE_BYTES:
        raise _invalid(
            f"lists files of {total:,} bytes together; at most {MAX_BUNDLE_BYTES:,} are accepted"
        )
    _check_canvases(manifest)
    head, text = manifest.head, manifest.text
    if head is not None and text is not None and head.embed_dim != text.embed_dim:
        raise _invalid(
            f"says that images are embedded in {head.embed_dim} dimensions and names in "
            f"{text.embed_dim}; expected the same"
        )


def _check_canvases(manifest: Manifest) -> None:
    """Check that canvases differ, have the longer side `image_size`, and whole tokens."""
    side, head = manifest.preprocessing.image_size, manifest.clip_head
    step = 1 if head is None else side // head.grid
    for canvas in manifest.canvases:
        if max(canvas) != side or (min(canvas) < side and min(canvas) % max(1, step)):
            raise _invalid(
                f"has an encoder for {canvas[0]} x {canvas[1]} pixels (h, w); expected a longer "
                f"side of {side}, and multiples of a token's side, {step}"
            )
    if len({*manifest.canvases}) < len(manifest.canvases):
        raise _invalid("has two encoders for one shape; expected one for each")
    for each in manifest.shaped:
        if (each.clip_head is None) != (manifest.graphs.clip_head is None):
            raise _invalid(
                f"has a clip_head for one shape and none for another, {each.canvas}; expected one "
                "for each or none"
            )


def _references(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yield the files that a manifest refers to, each with the largest size accepted."""
    for graph in manifest.all_graphs.values():
        for variant in graph.variants:
            yield variant.file, MAX_GRAPH_BYTES
            if variant.weights is not None:
                yield variant.weights, MAX_FILE_BYTES
    if manifest.text is not None:
        text = manifest.text
        for file, limit in (
            (text.tokenizer, MAX_TOKENIZER_BYTES),
            (text.labels, MAX_LABELS_BYTES),
            (text.label_embeddings, MAX_LABEL_EMBEDDINGS_BYTES),
            *((each.labels, MAX_LABELS_BYTES) for each in text.baked),
            *((each.label_embeddings, MAX_LABEL_EMBEDDINGS_BYTES) for each in text.baked),
        ):
            if file:
                yield file, limit


def _invalid(reason: str) -> ManifestError:
    return ManifestError(f"{MANIFEST_NAME} {reason}. Export the bundle again.")
