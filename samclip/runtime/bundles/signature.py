"""Signatures of bundles and the keys for them: Ed25519 (RFC 8032) over `manifest.json`.

The signature is the 64 bytes of `manifest.sig`. The manifest states the SHA-256 of every other
file, so the signature covers all of them. It is stored in the bundle, so that a bundle stays one
folder to copy, and it is the only file that the manifest need not list, since it signs that list.
Without a key it is ignored.

Keys are read from PEM or OpenSSH's form by `cryptography`, an extra package that is imported only
here, and only when a key is used.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samclip.disk.partial_files import as_write_error, remove_abandoned, write_file
from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_file
from samclip.engines.steps import SignBundle
from samclip.errors import CapabilityError, InputError, SignatureError
from samclip.runtime.bundles.files import open_plain_file
from samclip.runtime.bundles.manifest import MANIFEST_NAME, SIGNATURE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PUBLIC_KEY_VARIABLE = "SAMCLIP_PUBLIC_KEY"
MAX_KEY_BYTES = 2**16
SIGNATURE_BYTES = 64  # RFC 8032, section 5.1
OPENSSH_PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----"
MAKE_ONE = "Make a pair: ssh-keygen -t ed25519 -f my-key"


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key pair, which checks signatures; `path` is the file it came from."""

    path: Path
    key: Ed25519PublicKey

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the key's form in RFC 8709, as `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.line.split()[1])).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    @property
    def line(self) -> str:
        """The key in OpenSSH's form, "ssh-ed25519 AAAA...", without the comment of its file."""
        serialization = _import_cryptography("hazmat.primitives.serialization")
        line: bytes = self.key.public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return line.decode()

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's signature of exactly these bytes."""
        try:
            self.key.verify(signature, data)
        except _import_cryptography("exceptions").InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """The private half of a key pair, which signs; `path` is the file it came from."""

    path: Path
    key: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """The public half of the pair."""
        return PublicKey(self.path, self.key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Return the signature, 64 bytes; the same key and bytes always give the same one."""
        return self.key.sign(data)


def read_public_key(path: str | PathLike[str]) -> PublicKey:
    """Read a public key: PEM, or a line as in `~/.ssh/id_ed25519.pub`.

    Raises InputError for a file without one, CapabilityError without the package `cryptography`.
    """
    serialization = _import_cryptography("hazmat.primitives.serialization")
    file, data = _read_key_file(path)
    if b"PRIVATE KEY-----" in data:
        raise InputError(
            f"{file} is a private key, which only the signer should have. Give its public half: "
            f"ssh-keygen -y -f {file} > {file}.pub"
        )
    is_pem = data.lstrip().startswith(b"-----BEGIN")
    load = serialization.load_pem_public_key if is_pem else serialization.load_ssh_public_key
    key = _load_key(file, lambda: load(data))
    return PublicKey(file, _check_kind(file, key, "Ed25519PublicKey"))


def parse_public_key(line: str, path: Path) -> PublicKey:
    """Parse a key in OpenSSH's form, "ssh-ed25519 AAAA...", which was found in the file `path`.

    Raises InputError, CapabilityError without the package `cryptography`.
    """
    serialization = _import_cryptography("hazmat.primitives.serialization")
    key = _load_key(path, lambda: serialization.load_ssh_public_key(line.encode()))
    return PublicKey(path, _check_kind(path, key, "Ed25519PublicKey"))


def make_private_key() -> PrivateKey:
    """Make a key pair that is kept nowhere; raises CapabilityError without `cryptography`.

    What it signs can be checked for changes, and is not known to come from anybody.
    """
    ed25519 = _import_cryptography("hazmat.primitives.asymmetric.ed25519")
    return PrivateKey(Path("a key made for once"), ed25519.Ed25519PrivateKey.generate())


def read_private_key(path: str | PathLike[str], ask: Callable[[], str] | None = None) -> PrivateKey:
    """Read a private key: PEM, or OpenSSH's own form; `ask` returns its passphrase if it has one.

    Raises InputError for a file without one, one that other users can read, or a wrong passphrase;
    CapabilityError without the package `cryptography`.
    """
    serialization = _import_cryptography("hazmat.primitives.serialization")
    file, data = _read_key_file(path)
    if b"PRIVATE KEY-----" not in data:
        raise InputError(
            f"{file} is not a private key in PEM or OpenSSH's form. Give the private key file, not "
            f"its public half. {MAKE_ONE}"
        )
    _check_private(file)
    is_openssh = data.lstrip().startswith(OPENSSH_PRIVATE)
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    passphrase = None
    if _has_passphrase(load, data):
        if ask is None:
            raise InputError(
                f"{file} has a passphrase, and there is no terminal to ask for it. Give a copy "
                "of the key without one, or run the command in a terminal."
            )
        passphrase = ask().encode()
    key = _load_key(file, lambda: load(data, passphrase))
    return PrivateKey(file, _check_kind(file, key, "Ed25519PrivateKey"))


def chosen_public_key(given: str | PathLike[str] | None) -> PublicKey | None:
    """Read the key at `given`, else at $SAMCLIP_PUBLIC_KEY; None when neither is set.

    A variable that is set and empty names no key, and does not mean that every bundle is wanted.
    Raises as `read_public_key` does.
    """
    path = os.environ.get(PUBLIC_KEY_VARIABLE) if given is None else given
    if given is None and path is not None and not str(path).strip():
        raise InputError(
            f"the environment variable {PUBLIC_KEY_VARIABLE} is set and empty, so it names no key. "
            f"Set it to the public key file of the maker of your bundles, or, to accept bundles of "
            f"anybody, unset it."
        )
    return None if path is None else read_public_key(path)


def _read_key_file(path: str | PathLike[str]) -> tuple[Path, bytes]:
    """Read a small file without ever waiting for a pipe or a device."""
    file = user_path(path, "the key file")
    return file, read_user_file(file, MAX_KEY_BYTES, "the key", advice=MAKE_ONE)


def _check_private(file: Path) -> None:
    """Refuse a private key that other users can read, as ssh does."""
    if os.name == "nt":
        return
    try:
        status = file.stat()
    except OSError:  # it has been read, and removed since
        return
    if status.st_uid == os.getuid() and status.st_mode & 0o077:
        raise InputError(
            f"the private key {file} can be read by other users (permissions "
            f"{stat.S_IMODE(status.st_mode):04o}), so it may be known to them. Close it, if it is "
            f"not: chmod 600 {file}"
        )


def _has_passphrase(load: Callable[[bytes, bytes | None], Any], data: bytes) -> bool:
    """Whether a private key is encrypted; `cryptography` reports that by one of two errors."""
    unsupported = _import_cryptography("exceptions").UnsupportedAlgorithm
    try:
        load(data, None)
    except (TypeError, ValueError, unsupported) as error:
        return isinstance(error, TypeError) or "password-protected" in str(error)
    return False


def _load_key(file: Path, load: Callable[[], Any]) -> Any:
    unsupported = _import_cryptography("exceptions").UnsupportedAlgorithm
    try:
        return load()
    except (TypeError, ValueError, unsupported) as error:
        raise InputError(
            f"{file} cannot be read as an Ed25519 key ({error}). Give one in PEM or OpenSSH's "
            f"form, with the right passphrase. {MAKE_ONE}"
        ) from error


def _check_kind(file: Path, key: Any, kind: str) -> Any:
    ed25519 = _import_cryptography("hazmat.primitives.asymmetric.ed25519")
    if not isinstance(key, getattr(ed25519, kind)):
        found = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey").strip("_")
        raise InputError(f"{file} is a key of type {found}; bundles take Ed25519. {MAKE_ONE}")
    return key


def _import_cryptography(module: str) -> Any:
    try:
        return importlib.import_module(f"cryptography.{module}")
    except ImportError as error:
        raise CapabilityError(
            "signatures need the package cryptography. Install it: pip install 'samclip[signing]'."
        ) from error


def is_signed(root: Path) -> bool:
    """Whether the bundle in `root` has a signature, by whatever key."""
    return os.path.lexists(root / SIGNATURE_NAME)


def check_signature(root: Path, manifest: bytes, key: PublicKey) -> None:
    """Check that `key` signed `manifest`, the bytes of the manifest of the bundle in `root`.

    Raises SignatureError, or UnsafePathError when the signature is not a plain file.
    """
    if not is_signed(root):
        raise SignatureError(
            f"{root} is not signed ({SIGNATURE_NAME} is missing), and only bundles signed with "
            f"{key.path} are wanted. Get the signed bundle, or sign this one.",
            steps=(SignBundle(str(root)),),
        )
    with open_plain_file(root, SIGNATURE_NAME) as (file, size):
        signature = file.read(SIGNATURE_BYTES + 1)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(
            f"{SIGNATURE_NAME} of {root} has {size:,} bytes, an Ed25519 signature has "
            f"{SIGNATURE_BYTES}. Copy the bundle again, or sign it again.",
            steps=(SignBundle(str(root)),),
        )
    if not key.has_signed(manifest, signature):
        raise SignatureError(
            f"{MANIFEST_NAME} of {root} is not what the key {key.path} ({key.fingerprint}) "
            "signed: another key signed it, or it was changed since. Get the bundle again from "
            "its signer; do not use this one."
        )


def write_signature(root: Path, signature: bytes) -> None:
    """Write `signature` into the bundle, whole or not at all; raises WriteError.

    Readers ignore its partial file (`files.is_ignored`). One next to the bundle could not take its
    place where the bundle is a separate disk, as in a container.
    """
    place = root / SIGNATURE_NAME
    with as_write_error(place):
        remove_abandoned(root, {SIGNATURE_NAME})
        write_file(place, signature)
