"""Folders of the checkout, and its scripts, for tests that start them or read configs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"


def load_script(path: Path) -> Any:
    """Import a script by its path, under its file's name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
