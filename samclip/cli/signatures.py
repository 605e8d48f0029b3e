"""Signatures of commands that are built from declarations: typer reads options from parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints


def set_signature(
    command: Callable[..., None], source: Callable[..., Any], options: Iterable[inspect.Parameter]
) -> None:
    """Set the name and help of `command` to those of `source`, and its parameters to `options`."""
    parameters = list(options)
    command.__name__ = source.__name__
    command.__doc__ = source.__doc__
    # typer reads both
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}


def field_options(group: type) -> Iterator[inspect.Parameter]:
    """Yield the fields of a dataclass of options as keywords, in their order."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
