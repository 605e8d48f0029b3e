"""Words and openings that this project avoids, in docstrings, comments, messages and documents."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, prose

FOLDERS = ("samclip", "tools")
# Each word or phrase, and what to write in its place.
BANNED = {
    r"(?<!-)\bbeside\b": "with, next to, in addition to",
    r"\btold\b": "reported, shown, printed",
    r"\banew\b": "again",
    r"(?<!there )\b(?:is|are|was|were|be) no (?!longer\b|\w+er than\b|more than\b|less than\b"
    r"|(?:larger|slower|faster|worse|better|longer)\b)\w": "is not a",
    r"\bmade of\b": "consists of, built from",
    r"\bwhat is said\b": "name what is meant",
    r"\bof (?:its|their) own\b|\bof ours\b": "its own, a separate",
    r"\bwho(?:m)?ever\b": "anyone who",
    r"\bheed\w*\b": "obeys, checks",
}
PATTERNS = {re.compile(pattern, re.IGNORECASE): better for pattern, better in BANNED.items()}
# A function says what it does and returns; a module is named by a noun phrase.
OPENING = re.compile(r"(?:Gives?|Tells?|Says?)\b")
QUESTION = re.compile(r"(?:Whether|What|Whom?|Where|How|Which|When|Why|That)\b")

CODE = re.compile(r"`[^`\n]*`")

Finding = tuple[int, str]


def sources() -> list[Path]:
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(modules) + sorted(path for path in (ROOT / "scripts").iterdir() if is_text(path))


def is_text(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc"


def find_banned(text: str, first: int = 1) -> Iterator[Finding]:
    """Find banned words in a text whose first line has the number `first`."""
    for pattern, better in PATTERNS.items():
        for match in pattern.finditer(text):
            line = first + text[: match.start()].count("\n")
            yield line, f"{' '.join(match[0].split())!r}: {better}"


def find_openings(tree: ast.Module) -> Iterator[Finding]:
    """Find docstrings of functions that give or tell, and of modules that ask."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node) or ""
        if isinstance(node, ast.Module):
            if QUESTION.match(text):
                yield 1, f"{text.splitlines()[0]!r}: a module's docstring is a noun phrase"
        elif OPENING.match(text):
            yield node.body[0].lineno, f"{text.splitlines()[0]!r}: Return, or a verb"


def find_in_python(text: str) -> list[Finding]:
    """Find banned words in strings and comments, and docstrings that open badly."""
    tree = ast.parse(text)
    found = list(find_openings(tree))
    for node in ast.walk(tree):
        # one word is a key or a name, not prose; so is what stands between backticks
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            found += find_banned(CODE.sub("`", node.value), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            found += find_banned(token.string, token.start[0])
    return found


def find_in(path: Path) -> list[Finding]:
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return list(find_banned(prose(text)))
    if path.suffix == ".py" or text.startswith("#!/usr/bin/env python"):
        return find_in_python(text)
    comments = re.sub(r"^[ \t]*[^# \t\n].*$", "", text, flags=re.MULTILINE)
    return list(find_banned(comments))


def test_prose() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in PAGES + sources()
        for line, what in sorted(find_in(path))
    ]
    assert not found, "\n".join(found)


# ---- the checks themselves


@pytest.mark.parametrize(
    "text",
    ["It lies beside it.", "They are told so.", "This is no list.", "Pairs made\nof two."],
)
def test_banned_words_are_found(text: str) -> None:
    assert len(list(find_banned(text.replace("made\nof", "made of")))) == 1


@pytest.mark.parametrize(
    "text",
    ["There is no list.", "It is no longer used.", "Give --beside once.", "They were no faster."],
)
def test_good_words_are_left_alone(text: str) -> None:
    assert not list(find_banned(text))


def test_places_in_python_are_found() -> None:
    source = (
        '"""What this is."""\ndef f():\n    """Give it."""\n    g("They were told.")  # beside\n'
    )
    assert sorted(line for line, _ in find_in_python(source)) == [1, 3, 4, 4]


def test_code_in_documents_is_left_alone() -> None:
    assert not list(find_banned(prose("`beside`\n```\ntold\n```\n")))
