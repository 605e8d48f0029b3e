"""The page about JSON and its schemas, written from the records of `json_records`."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from tools.site.json_records import RECORDS
from tools.site.staging import DOCS

PAGE = DOCS / "reference" / "json.md"
SCHEMAS = DOCS / "reference" / "schemas"
INTRODUCTION = """# JSON

This page is written by `python -m tools.site --write`; change `tools/site/json_records.py`.

Every command that answers or reports takes `--json`, and then prints nothing else on standard
output. Messages, warnings and progress go to standard error. Commands that answer photos print one
JSON object a line for each photo, in order (JSON Lines); all others print one object. A photo of
several that cannot be answered has a line with `error`, and the exit code is 1.

Numbers that are NaN or infinite are `null`. Coordinates are pixels of the photo, x to the right
and y down. Bytes of a path that are not UTF-8 are written as `\\xff`. A field may be added in a
later version; none is removed or changes its meaning without a line in the change log.

Each schema is of JSON Schema, draft 2020-12, and refuses fields that it does not know: so a test
against it notices a new field. Programs that read answers of later versions ignore such fields.

| command | schema |
|---|---|
"""


def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}


def make_files() -> dict[str, str]:
    """Return the texts of the page and its schemas by their paths below `docs/reference`."""
    rows = [
        f"| `{command}` | [{name}](schemas/{name}.json) |" for name, (command, _) in RECORDS.items()
    ]
    files = {"json.md": INTRODUCTION + "\n".join(rows) + "\n"}
    for name, (command, kind) in RECORDS.items():
        schema = schema_of(kind)
        files[f"schemas/{name}.json"] = json.dumps(schema, indent=1) + "\n"
        files["json.md"] += f"\n## {command}\n\n" + _tables(schema, kind.__name__)
    return files


def write() -> None:
    """Write the page and the schemas, and remove schemas of commands that are gone."""
    files = make_files()
    SCHEMAS.mkdir(exist_ok=True)
    for path in SCHEMAS.glob("*.json"):
        path.unlink()
    for name, text in files.items():
        (PAGE.parent / name).write_text(text, "utf-8")


def _tables(schema: dict[str, Any], root: str) -> str:
    """Return the table of the record called `root`, and those of its parts, one level deep."""
    parts = schema["$defs"]
    text = f"{parts[root].get('description', '').splitlines()[0]}\n\n{_table(parts[root])}"
    for name in _references(parts[root]):
        part = parts[name]
        if name not in LINKED and "properties" in part:
            first = part.get("description", "").split("\n\n")[0].replace("\n", " ")
            text += f"\n`{name}`: {first}\n\n{_table(part)}"
    return text


# Records with many fields: the schema has them all.
LINKED = frozenset({"Manifest", "Sidecar", "Release", "FirstRun", "Verdict", "GateRow"})


def _table(part: dict[str, Any]) -> str:
    required = part.get("required", [])
    rows = ["| field | type | what |", "|---|---|---|"]
    for field, value in part["properties"].items():
        known = value.get("description", "")
        absent = "" if field in required else " (may be absent)"
        rows.append(f"| `{field}` | {_type(value)}{absent} | {known} |")
    return "\n".join(rows) + "\n"


def _type(value: dict[str, Any]) -> str:
    """Return a field's type in words."""
    if "$ref" in value:
        return f"`{value['$ref'].rpartition('/')[2]}`"
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"])
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"array of {len(value['prefixItems'])} {_type(value['prefixItems'][0])}s"
        return f"array of {_type(value.get('items') or {})}"
    if "enum" in value:
        return " or ".join(f"`{one}`" for one in value["enum"])
    return str(value.get("type", "any"))


def _references(value: Any) -> list[str]:
    """List the records that a part of a schema names, in order."""
    found: list[str] = []
    if isinstance(value, dict):
        if "$ref" in value:
            found.append(value["$ref"].rpartition("/")[2])
        for item in value.values():
            found += [name for name in _references(item) if name not in found]
    elif isinstance(value, list):
        for item in value:
            found += [name for name in _references(item) if name not in found]
    return found
