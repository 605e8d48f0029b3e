"""The page of every key of a run's file, from the structs that read it and what stands below keys.

A key's meaning is the string below its field; its last sentence may give the range, after "Range:".
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union

import msgspec

from samclip.merge.config.run import RunConfig
from samclip.merge.config.tables import TomlTable

RANGE = "Range:"
PAGE = "docs/train/merging-reference.md"
COMMAND = "scripts/write-merging-reference"
HEAD = f"""# Every key of a run's file

`samclip-merge --config FILE` reads these tables. [merging.md](merging.md) explains the recipe, and
[`configs/smallest.toml`](../../configs/smallest.toml) is the smallest file that runs. A key without
a default is required. TOML has no word for "nothing": leave such a key out. A misspelt key is an
error that names the nearest one.

`{COMMAND}` writes this page from `samclip/merge/config/`.
"""
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false"}


@dataclass(frozen=True)
class Key:
    """A key of a table: its type in words, its default in TOML, its range and meaning."""

    name: str
    type: str
    default: str
    range: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """A table: where it stands in the file, what it is, and its keys."""

    struct: type[TomlTable]
    place: str
    meaning: str
    keys: tuple[Key, ...]


def read_sections() -> tuple[Section, ...]:
    """Return every table that a run's file may have, each once, under all its places."""
    places: dict[type[TomlTable], list[str]] = {}
    _visit(RunConfig, "", places)
    return tuple(
        Section(struct, ", ".join(filter(None, found)), _meaning(struct), tuple(_keys(struct)))
        for struct, found in places.items()
    )


def write_page() -> str:
    """Write the page as Markdown."""
    lines = [HEAD]
    for section in read_sections():
        lines += [f"## {section.place or 'The top of the file'}", "", section.meaning, ""]
        lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
        for key in section.keys:
            cells = (f"`{key.name}`", key.type, key.default, key.range, key.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _visit(
    struct: type[TomlTable],
    path: str,
    places: dict[type[TomlTable], list[str]],
    is_list: bool = False,
) -> None:
    """Gather the places of a table and of all tables below it, in the order of the file."""
    tag = struct.__struct_config__.tag
    shown = f"`[[{path}]]`" if is_list else f"`[{path}]`"
    place = f"{shown} of kind {tag}" if tag else shown if path else ""
    found = places.setdefault(struct, [])
    if place not in found:
        found.append(place)
    for field in msgspec.structs.fields(struct):
        for inner, in_list in _tables(field.type):
            _visit(inner, f"{path}.{field.encode_name}".lstrip("."), places, in_list)


def _tables(kind: Any, is_list: bool = False) -> Iterator[tuple[type[TomlTable], bool]]:
    """Return the tables in a type, and whether they come in a list."""
    if isinstance(kind, type) and issubclass(kind, TomlTable):
        yield kind, is_list
    for inner in typing.get_args(kind):
        yield from _tables(inner, is_list or typing.get_origin(kind) is tuple)


def _meaning(struct: type[TomlTable]) -> str:
    return (inspect.getdoc(struct) or "").partition("\n\n")[0].replace("\n", " ")


def _keys(struct: type[TomlTable]) -> Iterator[Key]:
    said = _said_of_fields(struct)
    for field in msgspec.structs.fields(struct):
        meaning, _, allowed = said[field.name].partition(RANGE)
        yield Key(
            name=field.encode_name,
            type=_type_in_words(field.type),
            default=_default(field),
            range=allowed.strip().rstrip("."),
            meaning=meaning.strip(),
        )


def _said_of_fields(struct: type) -> dict[str, str]:
    """Return the string below each field of a struct and of its bases, on one line."""
    said: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if not issubclass(base, TomlTable) or base is TomlTable:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        nodes = typing.cast("ast.ClassDef", body).body
        for field, below in itertools.pairwise(nodes):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                text = str(below.value.value) if is_text else ""  # type: ignore[attr-defined]
                said[field.target.id] = " ".join(text.split())
    return said


def _type_in_words(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inner)
    if origin in {Union, types.UnionType}:
        shown = [_type_in_words(one) for one in inner if one is not type(None)]
        return " or ".join(dict.fromkeys(shown))
    if origin is tuple:
        what = _type_in_words(inner[0])
        if what.startswith("table"):
            return "tables"
        return f"list of {what}s" if inner[-1] is Ellipsis else f"list of {len(inner)} {what}s"
    if isinstance(kind, type) and issubclass(kind, TomlTable):
        return "table"
    return f"table of {_type_in_words(inner[1])}s" if origin is dict else WORDS[kind]


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, TomlTable):
        own = msgspec.to_builtins(value)  # without its own defaults
        shown = ", ".join(f"{name} = {_in_toml(one)}" for name, one in own.items())
        return f"`{{ {shown} }}`" if own else "its defaults"
    return f"`{_in_toml(value)}`"


def _in_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_toml, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return msgspec.json.encode(value).decode()
