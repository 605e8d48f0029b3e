"""Signals that ask a command to stop: one line, the exit code of shells, handlers put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from samclip.cli.exits import (
    CommandApp,
    StopAskedError,
    heed_stops,
    raise_on_signal,
    report_errors,
)
from samclip.errors import BackendUnavailableError, ImageError

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def run_app(work: Callable[[], None]) -> int | str | None:
    """Run an app whose only command does `work`; returns its exit code."""
    app = CommandApp(pretty_exceptions_enable=False)
    app.command()(work)
    with pytest.raises(SystemExit) as ended:
        app([])
    return ended.value.code


@pytest.mark.parametrize("number", CODES)
def test_a_signal_is_reported_in_one_line(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work() -> None:
        with report_errors(debug=False):
            try:
                signal.raise_signal(number)
            finally:
                cleaned.append(number)

    assert run_app(work) == CODES[number]
    assert cleaned == [number]
    line = capsys.readouterr().err
    assert line.startswith("stopped by ")
    assert line.count("\n") == 1


def test_handlers_are_put_back_and_those_of_others_stay() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with raise_on_signal():
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_signal_ends_the_process_at_once() -> None:
    with pytest.raises(StopAskedError), raise_on_signal():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupted_import_is_not_a_missing_package(capsys: pytest.CaptureFixture[str]) -> None:
    def import_extension() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:  # as pybind11 does
            raise ImportError("initialization failed") from error

    def work() -> None:
        with report_errors(debug=False):
            try:
                import_extension()
            except ImportError as error:
                raise BackendUnavailableError("install it again") from error

    assert run_app(work) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_other_threads_have_no_signals() -> None:
    codes: list[int] = []

    def work() -> None:
        try:
            with report_errors(debug=False):
                raise ImageError("no")
        except typer.Exit as ended:
            codes.append(ended.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [2]


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("inside", [True, False])
def test_an_app_reports_a_stop_once_wherever_it_comes(
    inside: bool, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        if not inside:
            raise StopAskedError(number)
        with report_errors(debug=False):
            signal.raise_signal(number)

    assert run_app(work) == CODES[number]
    assert capsys.readouterr().err.count("stopped by") == 1


def test_an_app_reports_a_stop_while_it_is_made_ready(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(TyperGroup):
        def __init__(self, **options: Any) -> None:
            raise KeyboardInterrupt

    app = CommandApp(cls=Interrupted, pretty_exceptions_enable=False)
    app.command("a")(lambda: None)
    app.command("b")(lambda: None)
    with pytest.raises(SystemExit) as ended:
        app([])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


SLOW_END = """
import signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from samclip.cli.exits import heed_stops, raise_on_signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where it was ignored
with raise_on_signal(), heed_stops(0.2), ThreadPoolExecutor() as pool:
    pool.submit(time.sleep, 30)  # the end of the block waits for it
    print("ready", flush=True)
    time.sleep(30)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", CODES)
def test_a_stop_is_heeded_though_other_threads_work_on(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_END],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == CODES[number]
    assert errors.startswith("stopped by ")
    assert errors.count("\n") == 1


def test_a_block_that_ends_by_itself_leaves_nothing_behind() -> None:
    before = signal.set_wakeup_fd(-1)
    threads = threading.active_count()
    with pytest.raises(StopAskedError), raise_on_signal(), heed_stops(60):
        signal.raise_signal(signal.SIGTERM)
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(before) == -1
