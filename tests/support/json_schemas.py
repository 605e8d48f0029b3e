"""The schemas of docs/reference/schemas, and what a command printed held to them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from tree import ROOT

SCHEMAS = ROOT / "docs" / "reference" / "schemas"


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of a schema, by the name of its file."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text("utf-8")))


def schema_name(arguments: list[str]) -> str | None:
    """The schema of a command line of `samclip` with --json; None without one."""
    if "--json" not in arguments:
        return None
    command, *rest = arguments
    if command == "engine":
        return f"engine-{rest[0]}"
    if command == "demo" and "--video" in rest:
        return "watch"
    if command == "deploy" and rest[0] == "triton":
        return "deploy-triton"
    return "deploy-status" if command == "deploy" and "--status" in rest else command


def check(name: str, value: Any) -> None:
    """Check a value; raises jsonschema.ValidationError."""
    validator("failed" if "error" in value and "task" in value else name).validate(value)


def check_output(arguments: list[str], text: str) -> None:
    """Check what a command printed on standard output: one document, or one on each line."""
    name = schema_name(arguments)
    if name is None or not text:
        return
    try:
        values = [json.loads(text)]
    except json.JSONDecodeError:
        values = [json.loads(line) for line in text.splitlines()]
    for value in values:
        check(name, value)
