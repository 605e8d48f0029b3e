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
from samclip.runtime.bundles.files import read_capped
from samclip.runtime.bundles.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Graph,
    Graphs,
    Manifest,
)
from samclip.runtime.bundles.signature import PublicKey, check_signature

MAX_MANIFEST_BYTES = 1_000_000
MAX_DIGEST_BYTES = 1024


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


def check_references(manifest: Manifest) -> None:
    """Check that every file that the manifest refers to is listed; raises ManifestError."""
    for name in _references(manifest):
        if name not in manifest.files:
            raise ManifestError(
                f"{MANIFEST_NAME} refers to {name!r} but does not list it under files. "
                "Export the bundle again."
            )


def _references(manifest: Manifest) -> Iterator[str]:
    for name in Graphs.__struct_fields__:
        graph: Graph | None = getattr(manifest.graphs, name)
        for variant in graph.variants if graph else ():
            yield variant.file
            if variant.weights is not None:
                yield variant.weights
    if manifest.text is not None:
        text = manifest.text
        yield from filter(None, (text.tokenizer, text.labels, text.label_embeddings))
