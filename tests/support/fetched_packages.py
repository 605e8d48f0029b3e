"""Packages that tests need and this environment does not have: fetched once, through pip."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

CACHE = Path(os.environ.get("SAMCLIP_TEST_CACHE", Path.home() / ".cache" / "samclip-tests"))


def fetched(name: str, packages: Sequence[str], what: str, *options: str) -> Path:
    """The folder `name` of the cache with packages in it, without what they require.

    Skips the test where `what` cannot be fetched. `options` are pip's.
    """
    folder = CACHE / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "whole").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        command += [*options, "--target", str(folder), *packages]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{what} cannot be fetched: {done.stderr[-300:]}")
        (folder / "whole").touch()
    return folder


def import_from(folder: Path, module: str) -> Any:
    """Import a module of a folder, which is put behind all else on the path."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module(module)
