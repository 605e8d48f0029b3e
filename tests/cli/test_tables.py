"""Sizes as text."""

from __future__ import annotations

import pytest

from samclip.cli.tables import format_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (41_234_567, "41.2 MB"),
        (999_960, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (2**40, "1.1 TB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_are_short(size: int, text: str) -> None:
    assert format_bytes(size) == text
