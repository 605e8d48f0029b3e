"""The signature of a bundle: `manifest.sig`, 64 bytes by Ed25519 over the bytes of `manifest.json`.

The manifest names the SHA-256 of every other file, so that the signature vouches for all of them.
It lies in the bundle, which stays one folder to copy; it is the one file that may be there without
being listed, since what signs the list cannot be on it. Without a key it is not looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

from samclip.disk.partial_files import claimed, new_file, sync_file, sync_folder, told
from samclip.errors import SignatureError
from samclip.runtime.bundles.files import open_plain_file
from samclip.runtime.bundles.keys import SIGNATURE_BYTES, PublicKey
from samclip.runtime.bundles.manifest import MANIFEST_NAME, SIGNATURE_NAME


def is_signed(root: Path) -> bool:
    """Tell whether the bundle in `root` has a signature, of whomever."""
    return os.path.lexists(root / SIGNATURE_NAME)


def check_signature(root: Path, manifest: bytes, key: PublicKey) -> None:
    """Check that the bundle in `root` is signed by `key`, `manifest` being what was read of it.

    Raises SignatureError, or UnsafePathError when the signature is no plain file.
    """
    if not is_signed(root):
        raise SignatureError(
            f"{root} is not signed ({SIGNATURE_NAME} is missing), and only bundles signed with "
            f"{key.path} are wanted. Get the signed bundle, or sign this one: samclip sign."
        )
    with open_plain_file(root, SIGNATURE_NAME) as (file, size):
        signature = file.read(SIGNATURE_BYTES + 1)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"{SIGNATURE_NAME} of {root} has {size:,} bytes, an Ed25519 signature has "
            f"{SIGNATURE_BYTES}. Copy the bundle again, or sign it again: samclip sign."
        )
    if not key.has_signed(manifest, signature):
        raise SignatureError(
            f"{MANIFEST_NAME} of {root} is not what the key {key.path} ({key.fingerprint}) "
            "signed: another key signed it, or it was changed since. Get the bundle again from "
            "who signs it; do not use this one."
        )


def write_signature(root: Path, signature: bytes) -> None:
    """Write `signature` next to the bundle, then rename it into place.

    A partial file inside the bundle would make the bundle invalid.
    """
    place = root / SIGNATURE_NAME
    with told(place), claimed(root, new_file()) as partial:
        partial.write_bytes(signature)
        sync_file(partial)
        partial.replace(place)
        sync_folder(root)
