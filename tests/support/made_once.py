"""Folders that the processes of a run make once: whoever needs one first makes it for all.

They are for reading: a test that changes files works on a copy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of the whole run, which its worker processes share."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder `name` of this run, which `make` fills; others wait until it has."""
    folder = run_folder(factory) / "made-once" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that failed
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder
