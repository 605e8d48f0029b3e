"""The order of imports, read from the source: upwards never, and no torch in the runtime."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest
from typer.main import get_command

import samclip.version
from samclip.benchmarks.cli import main as bench_cli
from samclip.cli import main as cli
from samclip.export import cli as export_cli
from samclip.merge import cli as merge_cli

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
# Lowest first: a folder or module imports from those before it and from itself, never upwards.
FLOORS = (
    ("errors", "json_text", "library_errors", "progress", "version"),
    ("disk",),
    ("engines",),
    ("runtime",),
    ("video",),
    ("client",),
    ("server",),
    ("triton",),
    ("batch",),
    ("ray",),
    ("baselines", "cli"),
    ("export",),
    ("merge",),
    ("benchmarks",),
)
LEAN = {
    *("errors", "json_text", "library_errors", "progress", "version"),
    *("disk", "engines", "runtime", "video", "client", "server", "triton", "batch", "ray"),
}
# The one door upwards: `Model.watch` opens what stands on it, when it is called.
DOORS = {("samclip.runtime.model", "samclip.video.watch")}
TERMINAL = {"rich", "typer", "click"}


def allowed(name: str) -> set[str]:
    """What the folder or module `name` may import from samclip."""
    found: set[str] = set()
    for floor in FLOORS:
        if name in floor:
            return {f"samclip.{each}" for each in (*found, name)}
        found |= set(floor)
    raise KeyError(name)


def modules(name: str) -> list[Path]:
    single = PACKAGE / f"{name}.py"
    return [single] if single.exists() else sorted((PACKAGE / name).rglob("*.py"))


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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def samclip_imports(path: Path) -> Iterator[str]:
    """Modules of samclip that `path` imports, without itself and the packages around it."""
    own = module_name(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("samclip."):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".replace(".", "/")
                submodule = (PACKAGE.parent / f"{inner}.py").exists()
                name = f"{node.module}.{alias.name}" if submodule else str(node.module)
                if name != own:
                    yield name


def is_within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def violations(path: Path, name: str) -> list[str]:
    """Imports of `path` that its folder may not make."""
    found = []
    for line, imported in imported_names(ast.parse(path.read_text("utf-8"), str(path))):
        ours = imported.startswith("samclip.") and not is_within(imported, allowed(name))
        ours = ours and (module_name(path), imported) not in DOORS
        heavy = name in LEAN and is_within(imported, HEAVY | TERMINAL)
        if ours or heavy:
            found.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {imported}")
    return found


@pytest.mark.parametrize("name", [name for floor in FLOORS for name in floor])
def test_imports_go_downwards_only(name: str) -> None:
    found = [violation for path in modules(name) for violation in violations(path, name)]
    assert not found, "\n".join(found)


def test_every_folder_and_module_has_a_floor() -> None:
    known = {name for floor in FLOORS for name in floor} | {"__init__", "commands", "assets"}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__pycache__", "py"} <= known


def test_no_module_imports_itself_through_others() -> None:
    """Find circles in the graph of all imports, lazy ones included."""
    graph = {module_name(path): set(samclip_imports(path)) for path in PACKAGE.rglob("*.py")}
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, " -> ".join((*trail[trail.index(name) :], name))
        if name in state:
            return
        state[name] = 1
        for imported in sorted(graph.get(name, ())):
            visit(imported, (*trail, name))
        state[name] = 2

    for name in graph:
        visit(name, ())


def commands_within(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands_within(inner)


@pytest.fixture(scope="module")
def command_words() -> re.Pattern[str]:
    """Finds samclip's own options, programs ("samclip-export") and commands ("samclip sign")."""
    options: set[str] = set()
    names: set[str] = set()
    for app in (cli.app, export_cli.app, merge_cli.app, bench_cli.app):
        for command in commands_within(get_command(app)):
            names |= {*getattr(command, "commands", ())}
            for parameter in command.params:
                options |= {o for o in (*parameter.opts, *parameter.secondary_opts) if "--" in o}
    scripts = {point.name for point in metadata.entry_points(group="console_scripts")}
    programs = {name for name in scripts if name.startswith("samclip-")}
    options |= {"--help", "--version"}
    assert {"--workspace", "--no-preflight", "--text-checkpoint", "--quick"} <= options
    assert {"engine", "build", "sign", "doctor"} <= names
    assert "samclip-export" in programs
    found = (
        *(rf"(?<![\w-]){option}" for option in options),
        *(rf"\b{program}" for program in programs),
        rf"\bsamclip (?:{'|'.join(sorted(names))})",
    )
    return re.compile(rf"(?:{'|'.join(found)})(?![\w-])")


def words_in_strings(source: str, words: re.Pattern[str]) -> list[tuple[int, str]]:
    """The lines on which strings, docstrings included, have such words, and the words."""
    return [
        (node.lineno, word)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for word in words.findall(node.value)
    ]


@pytest.mark.parametrize(
    "name", ["errors", "disk", "engines", "runtime", "video", "client", "server", "batch", "ray"]
)
def test_no_command_line_below_the_commands(name: str, command_words: re.Pattern[str]) -> None:
    """Only `cli` and what stands on it words a command; errors below name steps as facts."""
    found = [
        f"{path}:{line} {word}"
        for path in modules(name)
        for line, word in words_in_strings(path.read_text("utf-8"), command_words)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a smaller --workspace, or", ["--workspace"]),
        ("--no-preflight", ["--no-preflight"]),
        ("export it with samclip-export.", ["samclip-export"]),
        ("type `samclip engine build`", ["samclip engine"]),
        ("or sign it: samclip sign", ["samclip sign"]),
        ("pip install --force-reinstall --no-deps samclip", []),
        ("samclip.engines, samclip-tiny, a workspace", []),
        ("start it with its GPU (--gpus all)", []),
    ],
)
def test_the_check_of_command_lines_sees_them(
    text: str, words: list[str], command_words: re.Pattern[str]
) -> None:
    source = f"def f(x):\n    {text!r}\n    return f'{{x}} {text}'\n"
    assert [word for _, word in words_in_strings(source, command_words)] == words * 2


def test_the_ground_floor_stands_alone() -> None:
    for name in ("errors.py", "json_text.py", "progress.py", "version.py"):
        tree = ast.parse((PACKAGE / name).read_text("utf-8"))
        roots = {imported.partition(".")[0] for _, imported in imported_names(tree)}
        assert roots <= sys.stdlib_module_names


def test_public_module_takes_only_from_the_runtime() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    ours = {name for _, name in imported_names(tree) if name.startswith("samclip.")}
    allowed = {"samclip.errors", "samclip.version"}
    allowed |= {"samclip.runtime", "samclip.engines", "samclip.video", "samclip.client"}
    assert {name for name in ours if not is_within(name, allowed)} == set()


def test_the_check_itself_sees_forbidden_imports(tmp_path: Path) -> None:
    source = "def f():\n    import torch.nn\n    from samclip.export import checkpoint\n"
    tree = ast.parse(source)
    assert list(imported_names(tree)) == [(2, "torch.nn"), (3, "samclip.export")]
    assert is_within("torch.nn", HEAVY)
    assert not is_within("torchmetrics", HEAVY)
