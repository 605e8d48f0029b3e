"""Signatures of board records: Ed25519 over the file's content, whatever its spaces and order.

What is signed is the JSON document with an empty signature value: its keys sorted, without spaces,
in ASCII. So a file that was only laid out otherwise keeps its signature, and one in which a figure,
a name or the key itself was changed loses it.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import msgspec

from samclip.benchmarks.board.record import BoardRecord, Signature
from samclip.disk.paths import user_path
from samclip.disk.user_files import read_user_file
from samclip.errors import InputError, SignatureError
from samclip.json_text import to_json, to_plain
from samclip.runtime.bundles.signature import PrivateKey, PublicKey, parse_public_key

MAX_BYTES = 2**24
OWN_NOTE = (
    "signed with a key that the sender keeps: who has his public key knows that the file is his"
)
ONCE_NOTE = (
    "signed with a key that was made for this file and thrown away: the signature shows that the "
    "file was not changed since, and not whose it is"
)
ADVICE = "Give a file that `samclip-bench board` wrote."


def unsigned(key: PrivateKey, *, own: bool) -> Signature:
    """Return the signature of a record that is yet to be signed; `own`: the key is the user's."""
    public = key.public
    return Signature(
        key="own" if own else "once",
        note=OWN_NOTE if own else ONCE_NOTE,
        public_key=public.line,
        fingerprint=public.fingerprint,
    )


def sign_record(record: BoardRecord, key: PrivateKey) -> bytes:
    """Return the file of a record, signed: indented JSON."""
    document = to_plain(msgspec.to_builtins(record))
    value = key.sign(signed_bytes(document))
    document["signature"]["value"] = base64.b64encode(value).decode()
    return to_json(document, indent=1).encode() + b"\n"


def signed_bytes(document: dict[str, Any]) -> bytes:
    """Return what is signed of a document."""
    blank = {**document, "signature": {**document["signature"], "value": ""}}
    text = json.dumps(
        blank, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode()


def read_record(path: Path, key: PublicKey | None = None) -> BoardRecord:
    """Read a record whose schema and signature are right, by `key` where one is given.

    Raises InputError for any other file, SignatureError for one that was changed or that
    another key signed, CapabilityError without the package `cryptography`.
    """
    data = read_user_file(user_path(path), MAX_BYTES, "the record", advice=ADVICE)
    document = _parse(data, path)
    try:
        record = msgspec.convert(document, type=BoardRecord)
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is not a record of a board: {error}. {ADVICE}") from error
    signer = parse_public_key(record.signature.public_key, path)
    if key is not None and key.line != signer.line:
        raise SignatureError(
            f"{path} is signed with the key {signer.fingerprint}, and not with {key.path} "
            f"({key.fingerprint}). Ask its sender for the right file, or for his public key."
        )
    try:
        value = base64.b64decode(record.signature.value, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if not signer.has_signed(signed_bytes(document), value):
        raise SignatureError(
            f"{path} is not what its key {signer.fingerprint} signed: it was changed since. Get it "
            "from its sender again."
        )
    if record.signature.fingerprint != signer.fingerprint:
        raise SignatureError(
            f"{path} gives the fingerprint of its key as {record.signature.fingerprint[:80]!r}, it "
            f"is {signer.fingerprint}. Do not trust it."
        )
    return record


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    """Parse JSON in which no key comes twice: readers would differ in which they take."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not a number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key comes twice")
        return found

    try:
        document = json.loads(data, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a record of a board: {error}. {ADVICE}") from error
    if not isinstance(document, dict) or not isinstance(document.get("signature"), dict):
        raise InputError(f"{path} is not a record of a board: it has no signature. {ADVICE}")
    return document
