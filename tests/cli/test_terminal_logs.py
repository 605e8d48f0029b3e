"""The runtime's log on stderr."""

from __future__ import annotations

import logging
import warnings

import pytest

from samclip.cli.terminal import show_logs
from samclip.errors import InputWarning, UntrainedHeadWarning, warn_caller

LOGGER = logging.getLogger("samclip")


def test_warnings_show_once_and_information_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with show_logs():
        LOGGER.warning("disk %s is full", "[a]")
        LOGGER.warning("disk [a] is full")
        LOGGER.info("chatter")
    assert capsys.readouterr().err == "warning: disk [a] is full\n"


def test_input_warnings_show_once(capsys: pytest.CaptureFixture[str]) -> None:
    with show_logs():
        for _ in range(2):
            warn_caller("two of the names are the same.", InputWarning)
    assert capsys.readouterr().err == "warning: two of the names are the same.\n"


def test_untrained_head_warning_is_left_to_the_panel() -> None:
    with show_logs():
        warnings.warn("x", UntrainedHeadWarning, stacklevel=1)  # an error anywhere else


def test_information_shows_each_time_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with show_logs(logging.INFO):
        for _ in range(2):
            LOGGER.info("encode: %.1f ms", 2.5)
            LOGGER.warning("disk is full")
        LOGGER.debug("chatter")
    assert capsys.readouterr().err.splitlines() == [
        "encode: 2.5 ms",
        "warning: disk is full",
        "encode: 2.5 ms",
    ]


def test_logging_is_as_before_afterwards() -> None:
    before = list(LOGGER.handlers), LOGGER.propagate, LOGGER.level
    with show_logs(logging.DEBUG):
        assert len(LOGGER.handlers) == len(before[0]) + 1
    assert (LOGGER.handlers, LOGGER.propagate, LOGGER.level) == before
