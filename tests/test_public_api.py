"""The public API: `import samclip` offers exactly the names that docs/reference/api.md lists."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import samclip
from samclip import errors

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "api.md"
CLASSES = (
    "Model",
    "Scene",
    "Classification",
    "Masks",
    "AutoMasks",
    "DeviceMasks",
    "DeviceTensor",
    "SemanticMap",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "Client",
    "RemoteScene",
    "Vocabulary",
    "VideoStream",
    "Frame",
    "Watch",
    "FrameResult",
    "Memory",
    "Tracks",
)


def documented() -> list[str]:
    """The names in the first cells of the tables, arguments cut off."""
    api = PAGE.read_text("utf-8").partition("# Environment")[0]
    cells = [line.split("|")[1] for line in api.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([\w.]+)[^`]*`", cell)]


def members(name: str) -> set[str]:
    """Public attributes that a class adds to the documented classes among its bases."""
    kind = getattr(samclip, name)
    documented_bases = [base for base in kind.__mro__[1:] if base.__name__ in CLASSES]
    own = [base for base in kind.__mro__ if base not in documented_bases and base is not object]
    inherited = {member for base in documented_bases for member in dir(base)}
    fields: set[str] = set()
    if dataclasses.is_dataclass(kind):
        fields = {field.name for field in dataclasses.fields(kind)}
        for base in filter(dataclasses.is_dataclass, documented_bases):
            fields -= {field.name for field in dataclasses.fields(base)}
    found = {member for base in own for member in vars(base) if not member.startswith("_")}
    return (found | fields) - inherited


def test_all_is_exactly_what_is_documented() -> None:
    names = [name for name in documented() if "." not in name]
    assert sorted(names) == sorted(set(names)), "a name is documented twice"
    assert set(names) == set(samclip.__all__)


def test_all_is_sorted_and_without_doubles() -> None:
    assert len(set(samclip.__all__)) == len(samclip.__all__)


def test_every_name_can_be_had() -> None:
    assert [name for name in samclip.__all__ if getattr(samclip, name, None) is None] == []
    assert set(samclip.__all__) <= set(dir(samclip))


def test_every_member_is_documented_and_every_documented_member_exists() -> None:
    listed = {
        entry for entry in documented() if entry.partition(".")[0] in CLASSES and "." in entry
    }
    assert listed == {f"{name}.{member}" for name in CLASSES for member in members(name)}


def test_public_classes_and_methods_have_docstrings() -> None:
    without = []
    for name in CLASSES:
        kind = getattr(samclip, name)
        without += [] if kind.__doc__ else [name]
        for member in members(name):
            method = getattr(kind, member, None)
            if callable(method) and not inspect.getdoc(method):
                without.append(f"{name}.{member}")
    assert without == []


def test_every_error_is_public() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, Exception)
        if kind.__module__ == "samclip.errors"
    ]
    assert {kind.__name__ for kind in kinds} <= set(samclip.__all__)
    assert all(kind.__doc__ for kind in kinds)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = samclip.nothing


def test_star_import_works() -> None:
    code = "from samclip import *; print(load.__name__, Masks.__name__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "load Masks\n"
