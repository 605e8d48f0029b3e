"""The harness of the benchmark commands: a command is its options, and what it measures.

`benchmark` makes the command of a function that takes a session and its options and returns an
outcome. Options that several commands share are fields of dataclasses in `options`: a parameter of
such a type stands for its fields, in their order, so that each flag and its default are declared
once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from samclip.benchmarks.cli.session import Outcome, open_session

Benchmark = Callable[..., Outcome]


def benchmark(name: str) -> Callable[[Benchmark], Callable[..., None]]:
    """Return a decorator that makes the command of a benchmark, which reports call `name`.

    Among the options must be `json`, `threads` and `debug`.
    """

    def decorate(measure: Benchmark) -> Callable[..., None]:
        _, *declared = inspect.signature(measure, eval_str=True).parameters.values()
        groups: dict[str, Any] = {
            one.name: one.annotation for one in declared if is_dataclass(one.annotation)
        }
        options = [option for one in declared for option in _options(one)]

        @wraps(measure)
        def command(**given: Any) -> None:
            json, threads, debug = (given[key] for key in ("json", "threads", "debug"))
            for key, group in groups.items():
                given[key] = group(**{field.name: given.pop(field.name) for field in fields(group)})
            with open_session(name, json, threads, debug) as session:
                session.finish(measure(session, **given))

        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        command.__annotations__ = {option.name: option.annotation for option in options}
        return command

    return decorate


def _options(declared: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Return a parameter as an option, or the fields of its group."""
    if not is_dataclass(declared.annotation):
        yield declared.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(declared.annotation, include_extras=True)
    for field in fields(declared.annotation):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=hints[field.name],
        )
