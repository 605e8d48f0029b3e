"""The base of all records of a report."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records of a report: frozen, unknown fields refused."""
