"""Folders of the checkout, for tests that start scripts or read configs."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
