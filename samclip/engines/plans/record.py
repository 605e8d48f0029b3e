"""The base of the records in a plan's sidecar, the types that they share, and their digests."""

from __future__ import annotations

import hashlib
from typing import Annotated, TypeVar

import msgspec

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Capability = Annotated[str, msgspec.Meta(pattern="^[0-9]+[.][0-9]+$")]  # "8.7"
Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records of a sidecar: frozen, unknown fields refused."""


Digested = TypeVar("Digested", bound=Record)  # a record whose field `digest` is that of its rest


def with_digest(record: Digested) -> Digested:
    """Return a record with its digest filled in."""
    # as it is read: a whole number in the place of a float becomes one
    plain = msgspec.json.decode(msgspec.json.encode(record), type=type(record))
    return msgspec.structs.replace(plain, digest=digest_of(plain))


def digest_of(record: Record) -> str:
    """Return the SHA-256 of a record's JSON with an empty digest."""
    plain = msgspec.structs.replace(record, digest="")
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()
