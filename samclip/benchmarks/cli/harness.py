"""The harness of the benchmark commands: a command is its options, and what it measures.

`benchmark` makes the command of a function that takes a session and its options and returns an
outcome. Options that several commands share are fields of dataclasses in `options`: a parameter of
such a type stands for its fields, in their order, so that each flag and its default are declared
once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from samclip.benchmarks.cli.session import Outcome, open_session
from samclip.cli.signatures import field_options, set_signature

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

        def command(**given: Any) -> None:
            json, threads, debug = (given[key] for key in ("json", "threads", "debug"))
            for key, group in groups.items():
                given[key] = group(**{field.name: given.pop(field.name) for field in fields(group)})
            with open_session(name, json, threads, debug) as session:
                session.finish(measure(session, **given))

        set_signature(command, measure, (option for one in declared for option in _options(one)))
        return command

    return decorate


def _options(declared: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield a parameter as an option, or the fields of its group."""
    if isinstance(declared.annotation, type) and is_dataclass(declared.annotation):
        yield from field_options(declared.annotation)
    else:
        yield declared.replace(kind=inspect.Parameter.KEYWORD_ONLY)
