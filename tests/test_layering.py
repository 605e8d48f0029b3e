"""Who imports whom, read from the source: data flows one way, and the runtime knows no torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import samclip.version

PACKAGE = Path(samclip.version.__file__).parent
HEAVY = {
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "transformers",
    "safetensors.torch",
}
# What each folder may take from samclip; every folder may take from itself.
ALLOWED = {
    "baselines": {"samclip.errors", "samclip.runtime"},
    "engines": {"samclip.errors", "samclip.version"},
    "runtime": {"samclip.errors", "samclip.version", "samclip.engines"},
    "export": {"samclip.errors", "samclip.version", "samclip.engines", "samclip.runtime"},
    "merge": {
        *("samclip.errors", "samclip.version", "samclip.runtime", "samclip.export"),
        "samclip.engines.machine",
    },
}


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module named by an import statement, wherever it stands, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            yield node.lineno, node.module or ""
            if node.module == "samclip":
                yield from ((node.lineno, f"samclip.{alias.name}") for alias in node.names)


def is_within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def violations(path: Path, folder: str) -> list[str]:
    """Imports of `path` that its folder may not make."""
    allowed = {*ALLOWED[folder], f"samclip.{folder}"}
    found = []
    for line, name in imported_names(ast.parse(path.read_text("utf-8"), str(path))):
        ours = name.startswith("samclip.") and not is_within(name, allowed)
        heavy = folder in {"engines", "runtime"} and is_within(name, HEAVY)
        if ours or heavy:
            found.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}")
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_go_one_way(folder: str) -> None:
    found = [violation for path in modules(folder) for violation in violations(path, folder)]
    assert not found, "\n".join(found)


def test_errors_and_version_stand_alone() -> None:
    for name in ("errors.py", "version.py"):
        tree = ast.parse((PACKAGE / name).read_text("utf-8"))
        roots = {imported.partition(".")[0] for _, imported in imported_names(tree)}
        assert roots <= sys.stdlib_module_names


def test_public_module_takes_only_from_the_runtime() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    ours = {name for _, name in imported_names(tree) if name.startswith("samclip.")}
    allowed = {"samclip.errors", "samclip.version", "samclip.runtime", "samclip.engines"}
    assert {name for name in ours if not is_within(name, allowed)} == set()


def test_the_check_itself_sees_forbidden_imports(tmp_path: Path) -> None:
    source = "def f():\n    import torch.nn\n    from samclip.export import checkpoint\n"
    tree = ast.parse(source)
    assert list(imported_names(tree)) == [(2, "torch.nn"), (3, "samclip.export")]
    assert is_within("torch.nn", HEAVY)
    assert not is_within("torchmetrics", HEAVY)
