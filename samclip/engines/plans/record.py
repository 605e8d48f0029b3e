"""The base of the records in a plan's sidecar, and the types that they share."""

from __future__ import annotations

from typing import Annotated

import msgspec

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Capability = Annotated[str, msgspec.Meta(pattern="^[0-9]+[.][0-9]+$")]  # "8.7"
Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records of a sidecar: frozen, unknown fields refused."""
