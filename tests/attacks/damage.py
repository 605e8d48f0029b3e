"""Damage to files: bits that flip, and manifests forged so that their digests fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

COUNTS = [60, pytest.param(500, marks=pytest.mark.slow)]  # of damaged files; all with --slow


def draw_bits(data: bytes, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw `count` places of bits in `data`, the same ones for the same seed."""
    return np.random.default_rng(seed).integers(0, len(data) * 8, count)


def flip_bit(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit flipped."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def forge_manifest(bundle: Path, data: bytes) -> None:
    """Replace a bundle's manifest and make its digest fit, as an attacker would."""
    (bundle / "manifest.json").write_bytes(data)
    line = f"{hashlib.sha256(data).hexdigest()}  manifest.json\n"
    (bundle / "manifest.sha256").write_text(line)
