"""Seeds for everything random in a run, each a pure function of its purpose."""

from __future__ import annotations

import hashlib

import msgspec

SEED_BITS = 63  # what both numpy and torch take


def derive_seed(*parts: str | int) -> int:
    """Hash `parts` to a seed in [0, 2**63): the same parts give the same seed on every machine.

    The first bytes of the SHA-256 of the parts as JSON, so that ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.sha256(msgspec.json.encode(parts)).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)
