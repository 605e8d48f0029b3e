from __future__ import annotations

import os

import pytest

from samclip.engines.base import EngineOptions, Guard
from samclip.errors import ClosedError, EngineRunError

GUARD = Guard("encoder", ("image",), ("low", "high"))


def test_outputs_default_to_all() -> None:
    assert GUARD.check_names({"image": 1}, None) == ("low", "high")
    assert GUARD.check_names({"image": 1}, ["high"]) == ("high",)
    assert GUARD.check_names({"image": 1}, []) == ()


@pytest.mark.parametrize(
    ("feeds", "outputs", "message"),
    [
        ({"image": 1}, ["hihg"], "has the outputs low, high; asked with hihg"),
        ({}, None, "has the inputs image; asked with none"),
        ({"image": 1, "extra": 2}, None, "asked with image, extra"),
    ],
)
def test_other_names_are_refused(
    feeds: dict[str, int], outputs: list[str] | None, message: str
) -> None:
    with pytest.raises(EngineRunError, match=message):
        GUARD.check_names(feeds, outputs)


def test_closed_engines_and_those_of_another_process_are_refused() -> None:
    held = object()
    assert GUARD.check_open(held) is held
    with pytest.raises(ClosedError, match="'encoder' is closed"):
        GUARD.check_open(None)
    with pytest.raises(EngineRunError, match="before the process forked"):
        Guard("encoder", (), (), process=os.getpid() + 1).check_open(held)


@pytest.mark.parametrize("threads", [0, -1])
def test_options_without_threads_are_refused(threads: int) -> None:
    with pytest.raises(EngineRunError, match=f"at least 1 or None, got {threads}"):
        EngineOptions(threads=threads)
