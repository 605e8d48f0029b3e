"""The whole dry run, in processes that can import only what the borrowed machine has."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

# Imported by each Python process that starts. It takes the place of the finder of installed
# modules, and of those finds what the machine has: samclip is there in the tree alone.
BLOCKER = """
import sys
from importlib.machinery import PathFinder

ALLOWED = frozenset({allowed!r}) | sys.stdlib_module_names
TREE = {tree!r}

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        if path is not None or name in ALLOWED or found is None:
            return found
        place = str(found.origin)
        is_own = place.startswith((sys.base_prefix, TREE)) and "site-packages" not in place
        return found if is_own else None

    invalidate_caches = PathFinder.invalidate_caches

kept = [finder for finder in sys.meta_path if finder.__module__ == "_frozen_importlib"]
sys.meta_path[:] = [*kept, Finder]
"""


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The variables of a process without the tests' own paths and with the blocker."""
    spec = importlib.util.spec_from_file_location("borrowed", FOLDER / "borrowed_machine.py")
    assert spec is not None
    assert spec.loader is not None
    borrowed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(borrowed)
    site = tmp_path / "hidden"
    site.mkdir()
    text = BLOCKER.format(allowed=sorted(borrowed.MODULES), tree=str(ROOT))
    (site / "sitecustomize.py").write_text(text)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": f"{site}{os.pathsep}{sysconfig.get_path('purelib')}",
        "SAMCLIP_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }


def test_what_the_machine_lacks_is_hidden(variables: dict[str, str], tmp_path: Path) -> None:
    for name in ("pydantic", "segment_anything", "openvino", "open_clip"):
        done = subprocess.run(
            [sys.executable, "-c", f"import {name}"],
            env=variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"No module named '{name}'" in done.stderr


@pytest.mark.slow
def test_the_whole_dry_run(lite2_bundle: Path, variables: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "check_gpu.py"), "--dry-run"]
    command += ["--bundle", str(lite2_bundle), "--output", "out"]
    done = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    states = json.loads((tmp_path / "out" / "report.json").read_text())["parts"]
    assert states == dict.fromkeys(
        [
            "libraries",
            "cuda-layer",
            "ceilings",
            "encoders",
            "ort-cuda",
            "gates-cuda",
            "tensorrt",
            "gates-tensorrt",
            "tensorrt-rtx",
            "gates-tensorrt-rtx",
        ],
        "passed",
    ), done.stdout
    assert done.returncode == 0
    rows = json.loads((tmp_path / "out" / "part-libraries.json").read_text())["rows"]
    assert {row["what"]: row["value"] for row in rows}["samclip"] == str(ROOT / "samclip")
    rows = json.loads((tmp_path / "out" / "part-tensorrt-rtx.json").read_text())["rows"]
    assert any(row["what"].endswith(": build, size") and row["value"] > 0 for row in rows)
