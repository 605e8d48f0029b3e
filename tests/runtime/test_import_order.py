"""The order of imports within `samclip.runtime`, imports for type checking included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from samclip.runtime import assets

ROOT = Path(assets.__file__).parent
# Lowest first: a folder or module imports from those before it and from itself, never upwards.
ORDER = (
    "assets",
    "series",
    "room",
    "photo",
    "stages",
    "devices",
    "pixels",
    "bundles",
    "graph_outputs",
    "engine_pool",
    "measured_choice",
    "backend_choice",
    "text",
    "plans",
    "opening",
    "results",
    "formats",
    "features",
    "clip_tower",
    "tasks",
    "scene",
    "example_regions",
    "model",
    "loading",
    "predictor",
    "mask_generator",
    "deploy",
)


def imported(file: Path) -> Iterator[str]:
    """The folders and modules of the runtime that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in getattr(node, "names", []) if isinstance(node, ast.Import)]
        if isinstance(node, ast.ImportFrom) and node.module == "samclip.runtime":
            names = [f"samclip.runtime.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".")[2] for name in names if name.startswith("samclip.runtime."))


def test_every_folder_and_module_has_its_place() -> None:
    found = {path.stem for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    found |= {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert found == set(ORDER)


@pytest.mark.parametrize("place", range(len(ORDER)), ids=ORDER)
def test_nothing_imports_upwards(place: int) -> None:
    path = ROOT / ORDER[place]
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    below = set(ORDER[: place + 1])
    wrong = {f"{file.name}: {name}" for file in files for name in imported(file)} - {
        f"{file.name}: {name}" for file in files for name in below
    }
    assert not wrong
