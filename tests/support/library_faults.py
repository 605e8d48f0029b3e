"""Functions that fail as those of a library do: raised from a module of its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def failing(library: str, error: BaseException) -> Callable[..., NoReturn]:
    """Return a function, whatever its arguments, that raises `error` inside `library`."""
    namespace: dict[str, Any] = {"__name__": f"{library}.made", "error": error}
    exec("def fail(*_, **__):\n    raise error", namespace)
    return namespace["fail"]  # type: ignore[no-any-return]
