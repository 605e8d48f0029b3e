"""Errors, which become one message on stderr and an exit code."""

from __future__ import annotations

import pytest
import typer

from samclip.cli.exits import BAD_INPUT, FAILURE, exit_code, report, report_errors
from samclip.errors import (
    BackendUnavailableError,
    BundleNotFoundError,
    CapabilityError,
    ImageError,
    IntegrityError,
    PromptError,
    UnknownBackendError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageError("x"), BAD_INPUT),
        (PromptError("x"), BAD_INPUT),
        (BundleNotFoundError("x"), BAD_INPUT),
        (IntegrityError("x"), FAILURE),
        (BackendUnavailableError("x"), FAILURE),
        (UnknownBackendError("x"), BAD_INPUT),
        (CapabilityError("x"), FAILURE),
        (OSError(28, "No space left on device", "out.png"), FAILURE),
    ],
)
def test_input_is_two_and_failure_is_one(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_message_goes_to_stderr_whole_and_unstyled(capsys: pytest.CaptureFixture[str]) -> None:
    message = "[bold]a[/bold] " + "long " * 60 + "end"
    with pytest.raises(typer.Exit) as exit_, report_errors(debug=False):
        raise ImageError(message)
    captured = capsys.readouterr()
    assert exit_.value.exit_code == BAD_INPUT
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""


def test_system_errors_name_file_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    report(OSError(28, "No space left on device", "out.png"), about="a.jpg")
    assert capsys.readouterr().err == "error: a.jpg: out.png: No space left on device\n"


def test_error_without_a_message_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    report(ImageError())
    assert capsys.readouterr().err == "error: ImageError\n"


def test_debug_lets_the_error_through() -> None:
    with pytest.raises(ImageError), report_errors(debug=True):
        raise ImageError("x")


def test_defects_are_never_hidden() -> None:
    with pytest.raises(ZeroDivisionError), report_errors(debug=False):
        raise ZeroDivisionError
