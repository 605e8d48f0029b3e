"""The documents against the tree: tables, links, named files, commands and their options."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from page_commands import APPS, commands
from pages import (
    PAGES,
    ROOT,
    SPECIFICATIONS,
    Section,
    anchors,
    code,
    is_measured,
    links,
    prose,
    sections,
    split_row,
)

from samclip import errors

# The sentence for figures without a command, in the text above their table.
UNRECORDED = re.compile(r"no\s+command\s+is\s+recorded\s+for\s+it", re.IGNORECASE)
UsageError = typer.BadParameter.__mro__[1]  # typer has its own copy of click
FOLDERS = ("samclip", "tests", "docs", "scripts", "configs", "tools", "docker", "examples")
INNER = ("disk", "engines", "runtime", "cli", "export", "merge", "benchmarks")
FILE = re.compile(rf"(?:{'|'.join(FOLDERS + INNER)})/[\w./-]*")
PUBLISHED = re.compile(r"\bsamclip(?:\.[A-Za-z_]\w*)+")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each_section() -> Iterator[tuple[str, Section]]:
    return ((name(page), section) for page in PAGES for section in sections(page))


def each_code() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield from ((name(page), text) for text in code(page.read_text("utf-8")))


def writers(text: str) -> list[str]:
    """List the commands in a text that measure something: those of `samclip` only answer."""
    return [line for line in commands(text) if line.split(maxsplit=1)[0] != "samclip"]


@cache
def app_of(module: str) -> Any:
    return typer.main.get_command(importlib.import_module(module).app)


def parse(line: str) -> None:
    """Parse a command line as its app does, without running it; raises typer's UsageError."""
    head = next(head for head in APPS if re.match(rf"{head}(?:\s|$)", line))
    arguments = shlex.split(line.removeprefix(head))
    if "|" in arguments:  # alternatives: `samclip classify | segment`
        arguments = arguments[: arguments.index("|")]
    command = app_of(APPS[head])
    context = command.context_class(command, info_name=head)
    while hasattr(command, "resolve_command"):
        _, arguments, _ = command.make_parser(context).parse_args(arguments)
        if not arguments:
            return
        _, command, arguments = command.resolve_command(context, arguments)
        context = command.context_class(command, parent=context)
    command.make_parser(context).parse_args(arguments)


def check_script(line: str) -> None:
    """Check that a script's text has each option, and that the paths it is given exist."""
    first, *arguments = shlex.split(line)
    if first == "scripts/emulate-aarch64":  # takes the arguments of `samclip`
        parse(" ".join(["samclip", *map(shlex.quote, arguments)]))
        return
    if first == "python" and arguments[0] == "-m":
        package = ROOT / arguments[1].replace(".", "/")
        arguments = arguments[2:]
        script = package / "__main__.py" if package.is_dir() else package.with_suffix(".py")
    else:
        script = ROOT / (arguments.pop(0) if first == "python" else first)
    text = script.read_text("utf-8")
    for argument in arguments:
        if argument.startswith("--"):
            assert argument.partition("=")[0] in text, f"{script.name} has no {argument}"


def check_pytest(line: str) -> None:
    for argument in shlex.split(line)[1:]:
        if argument.startswith("tests/"):
            assert (ROOT / argument).exists(), f"there is no {argument}"


def test_rows_have_as_many_cells_as_their_header() -> None:
    found = []
    for page, section in each_section():
        for table in section.tables():
            widths = {len(row) for row in table.rows}
            if len(widths) > 1:
                found.append(f"{page}:{table.line}: rows of {sorted(widths)} cells")
    assert not found, "\n".join(found)


def test_tables_of_figures_name_their_command() -> None:
    found = []
    for page, section in each_section():
        for table in section.tables():
            if not table.has_figures(page):
                continue
            if not writers(table.text) and not UNRECORDED.search(table.text):
                found.append(f"{page}:{table.line}: in {section.title!r}")
    assert not found, "no command wrote these figures:\n" + "\n".join(found)


def test_every_exception_is_a_table_of_numbers() -> None:
    there = {
        (page, table.header)
        for page, section in each_section()
        for table in section.tables()
        if re.search(r"\d", str(table.body))
    }
    assert there >= SPECIFICATIONS


def test_commands_parse() -> None:
    found = []
    for page, line in (
        (each, line) for each in PAGES for line in commands(each.read_text("utf-8"))
    ):
        try:
            if re.match(rf"(?:{'|'.join(APPS)})(?:\s|$)", line):
                parse(line)
            elif line.startswith("pytest"):
                check_pytest(line)
            else:
                check_script(line)
        except (UsageError, AssertionError, ImportError, ValueError) as error:
            found.append(f"{name(page)}: {line}: {error}")
    assert not found, "\n".join(found)


def test_links_lead_somewhere() -> None:
    found = []
    for page, target in ((each, target) for each in PAGES for target in links(each)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(f"{name(page)}: {target}")
    assert not found, "\n".join(found)


def test_named_files_exist() -> None:
    found = []
    for page, text in each_code():
        if FILE.fullmatch(text):
            folder = ROOT if text.split("/")[0] in FOLDERS else ROOT / "samclip"
            if not (folder / text).exists():
                found.append(f"{page}: {text}")
    assert not found, "\n".join(found)


@cache
def names_in(module: Path) -> set[str]:
    """List the names that a module defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module of samclip, or a name in one."""
    path, parts = ROOT / "samclip", dotted.split(".")[1:]
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts and (path / f"{parts[0]}.py").is_file():
        module = path / f"{parts.pop(0)}.py"
    else:
        module = path / "__init__.py"
    return not parts or parts[0] in names_in(module)


def test_named_modules_exist() -> None:
    texts = ((name(page), page.read_text("utf-8")) for page in PAGES)
    found = [(page, dotted) for page, text in texts for dotted in PUBLISHED.findall(text)]
    assert not [(page, dotted) for page, dotted in found if not exists(dotted)]


def test_every_error_has_a_section() -> None:
    kinds = [value for value in vars(errors).values() if inspect.isclass(value)]
    wanted = {
        kind.__name__
        for kind in kinds
        if issubclass(kind, errors.SamclipError | errors.SamclipWarning)
    }
    titles = {section.title for section in sections(ROOT / "docs" / "reference" / "errors.md")}
    assert titles - {"", "Errors"} == wanted


def test_rows_of_faults_name_tests_that_exist() -> None:
    text = (ROOT / "docs" / "evidence" / "faults.md").read_text("utf-8")
    for file, function in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text):
        path = ROOT / "tests" / "attacks" / file
        assert path.is_file(), f"there is no {path.name}"
        assert not function or function in names_in(path), f"{file} has no {function}"


# ---- the checks themselves


def test_a_row_one_cell_short_is_seen() -> None:
    assert len(split_row("| cosine | 0.9995 | 0.998 | the same |")) == 4
    assert split_row(r"| a \| b | `c` |") == (r"a \| b", "`c`")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("samclip-bench latency --quick", ""),
        ("samclip-bench latency --quck", "No such option"),
        ("samclip-bench latncy", "No such command"),
        ("samclip-bench accuracy names path/to/coco --limit", "requires an argument"),
        ("samclip engine build my-bundle --workspace 1024", ""),
        ("samclip classify | segment", ""),
    ],
)
def test_options_that_do_not_exist_are_seen(line: str, wrong: str) -> None:
    if not wrong:
        parse(line)
        return
    with pytest.raises(UsageError, match=wrong):
        parse(line)


def test_figures_are_not_confused_with_versions_and_names() -> None:
    assert is_measured((("encoder", "0.875 s", "0.964 (0.931 - 1.014)"),))
    assert is_measured((("masks", "**0.9900**", "99.69 %"),))
    assert not is_measured((("box", "the annotation's box", "the single-mask output"),))
    assert UNRECORDED.search("measured once; no command\nis recorded for it")


def test_code_is_no_prose() -> None:
    assert "beside" not in prose("a\n```\nbeside\n```\n`--beside` of")
    assert prose("a\n```\nb\n```\nc").count("\n") == 4


def test_modules_that_do_not_exist_are_seen() -> None:
    assert exists("samclip.runtime.loading.load")
    assert exists("samclip.load")
    assert not exists("samclip.runtime.images")
    assert not exists("samclip.runtime.loading.lead")
