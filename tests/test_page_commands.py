"""Commands and programs of the pages for newcomers, run in order in a fresh folder.

All other commands on pages are run by other tests, or have a reason why not: `page_commands`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_commands
import pytest
from pages import PAGES, ROOT
from typer.testing import CliRunner

from samclip.cli.main import app

# Pages whose fenced blocks are run from top to bottom, those of Python in one namespace a page.
RUN = (
    "quickstart.md",
    "recipes/index.md",
    "recipes/camera.md",
    "recipes/coco.md",
    "recipes/detector.md",
    "recipes/notebook.md",
    "recipes/vocabulary.md",
    "reference/errors.md",
)
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Lines of blocks that are not run, and why.
LEFT_OUT = {
    r"python3 -m venv ": "this environment is the result",
    r"pip install ": "tests/test_packaging.py installs the package",
    r"python examples/": "tests/examples/test_scripts.py runs the programs",
    r"samclip demo": "tests/cli/test_demo.py",
    r"samclip doctor": "tests/cli/test_doctor.py",
}


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The language and text of each fenced block."""
    yield from BLOCK.findall((ROOT / "docs" / page).read_text("utf-8"))


def run_line(line: str) -> None:
    """Run a line of a shell, in this process where it is Python's."""
    first, *arguments = shlex.split(line, comments=True)
    if first == "samclip":
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.stderr}"
    elif (first, arguments[0]) == ("python", "-c"):
        exec(arguments[1], {})
    else:
        subprocess.run([first, *arguments], check=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh current folder, with the photos of the quickstart and the files that recipes name."""
    for variable in ("SAMCLIP_BUNDLE", "SAMCLIP_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mark(page: str) -> Any:
    """The quickstart is run by default; recipes have a program each, which is."""
    return pytest.param(page, marks=pytest.mark.slow if page.startswith("recipes/") else ())


@pytest.mark.parametrize("page", [mark(page) for page in RUN])
def test_pages_for_newcomers_run(page: str, folder: Path) -> None:
    if page != "quickstart.md":
        (copy,) = [line for _, text in blocks("quickstart.md") for line in text.splitlines()
                   if line.startswith("python -c")]  # fmt: skip
        run_line(copy)
    (folder / "labels.txt").write_text("a cat\na cup of coffee\n")
    (folder / "detections.json").write_text(json.dumps([]))
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("error")
        for language, text in blocks(page):
            if language == "python":
                exec(compile(text, page, "exec"), names)
                continue
            for line in text.replace("\\\n", " ").splitlines():
                if not any(re.match(pattern, line) for pattern in LEFT_OUT):
                    run_line(line)
    if "model" in names:
        names["model"].close()
    if page == "quickstart.md":
        assert printed.getvalue().splitlines()[0] == "a cup of coffee"
        assert {"cup.png", "labels.png", "masks.png"} <= {path.name for path in folder.iterdir()}


def test_every_command_is_run_or_has_a_reason() -> None:
    seen = set()
    for page in PAGES:
        for line in page_commands.commands(page.read_text("utf-8")):
            pattern = page_commands.find(line)
            assert pattern, f"{page.name}: nothing runs {line!r}; add it to page_commands.py"
            seen.add(pattern)
    unused = set(page_commands.PATTERNS) - seen
    assert not unused, f"no page has such a command: {unused}"


def test_the_tests_of_commands_exist() -> None:
    for pattern, value in page_commands.PATTERNS.items():
        paths = page_commands.named_paths(value)
        assert paths or value.startswith("not run: "), pattern
        missing = [path for path in paths if not (ROOT / path).exists()]
        assert not missing, f"{pattern}: {missing}"
