"""Output of the commands: answers to stdout; progress, warnings, errors and logs to stderr."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.text import Text

from samclip.cli.advice import with_commands
from samclip.errors import InputWarning, UntrainedHeadWarning
from samclip.json_text import escape_match, to_json

# Characters that a terminal acts on instead of showing them: controls except tab and line feed,
# marks that change the direction of text, Unicode's line breaks. Also surrogates, which stand for
# bytes of a file's name that are not UTF-8.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
OF_INPUT = "of_input"  # attribute of the records of warnings about what the caller passed in
NUMBER = re.compile(r"\d[\d.,]*")
LEAST_COLUMNS = 60  # of a table for people


def visible(text: str) -> str:
    r"""Return `text` with escapes such as `\x1b` for characters that a terminal acts on."""
    return UNSAFE.sub(escape_match, text)


def in_one_line(text: str) -> str:
    """Return `text`, a file's name for instance, as `visible` does and without line breaks."""
    return visible(text).replace("\n", "\\n")


def ignore_useless_sizes() -> None:
    """Forget COLUMNS and LINES where nothing fits into them, as into 0 columns."""
    for name, least in (("COLUMNS", LEAST_COLUMNS), ("LINES", 2)):
        given = os.environ.get(name)
        if given is not None and not (given.isdecimal() and int(given) >= least):
            del os.environ[name]


class SafeConsole(Console):
    """A console on which no text can move the cursor or change the terminal.

    It takes a terminal for wide enough to show a table, because what does not fit is lost: where it
    is narrower, the terminal breaks the lines.
    """

    @property
    def size(self) -> ConsoleDimensions:
        """The columns and lines that are used."""
        found = super().size
        return ConsoleDimensions(max(found.width, LEAST_COLUMNS), max(found.height, 2))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string, also that of a table's cell, with its escapes made visible."""
        return super().render_str(visible(text), **options)


out = SafeConsole(highlight=False, emoji=False)
err = SafeConsole(stderr=True, highlight=False, emoji=False)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print `text` without reading markup in it and without wrapping it."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def say_note(text: str) -> None:
    """Print a remark on stderr, on one line, about what a command does with its input."""
    say(err, in_one_line(f"note: {text}"), style="yellow")


def accept_any_text() -> None:
    """Let stdout and stderr write escapes for characters that they cannot encode.

    Else names would fail in a terminal without UTF-8, and so would files' names that are not UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_line(line: str) -> None:
    """Write one machine-readable line to stdout at once, so that a reader can follow along."""
    out.file.write(line + "\n")
    out.file.flush()


def write_json(record: dict[str, Any], indent: int | None = None) -> None:
    """Write a record as JSON; see `to_plain` for what JSON does not have."""
    write_line(to_json(record, indent))


def warn_untrained_head() -> None:
    """Print a conspicuous warning that the names in the answers mean nothing."""
    from rich.panel import Panel

    text = (
        "The CLIP head of this bundle was never trained: every name and probability below is "
        "MEANINGLESS. Masks are not affected.\n"
        "Use a bundle that was exported from a checkpoint with a trained head; `samclip info` "
        "shows whether it is."
    )
    err.print(Panel(text, title="WARNING: UNTRAINED HEAD", style="bold red"))


class Ticker:
    """A progress bar over images on stderr; silent where stderr is not a terminal."""

    def __init__(self, total: int) -> None:
        """Prepare a bar over `total` images."""
        # Imported here, for `samclip --help` needs no bar.
        from rich import progress

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=err,
            transient=True,
            redirect_stdout=False,  # else the answers would land on stderr
            disable=not err.is_terminal or total < 2,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Ticker:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def working(self, description: str) -> AbstractContextManager[object]:
        """Show `description` next to the bar, or next to a spinner when there is one image only."""
        shown = escape(in_one_line(description))
        self._progress.update(self._task, description=shown)
        single = self._progress.tasks[0].total == 1
        return err.status(shown) if single and err.is_terminal else nullcontext()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed, then advance it."""
        self._progress.stop()
        yield
        self._progress.advance(self._task)
        self._progress.start()


class _Printer(logging.Handler):
    """Prints messages; those of level WARNING and above the first time only.

    Messages about the input that differ in numbers alone count as one: in a series they are of the
    same prompts on images of other sizes.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = with_commands(record.getMessage(), getattr(record, "steps", ()))
        if record.levelno < logging.WARNING:
            say(err, in_one_line(message), style="dim")
            return
        key = NUMBER.sub("#", message) if hasattr(record, OF_INPUT) else message
        if key not in self._seen:
            self._seen.add(key)
            say(err, in_one_line(f"{record.levelname.lower()}: {message}"), style="yellow")


@contextmanager
def show_logs(level: int = logging.WARNING) -> Iterator[None]:
    """Show the log "samclip" from `level` on, and InputWarning, on stderr within the block.

    Each warning is shown once. UntrainedHeadWarning is ignored: the command has a panel for it.
    """
    logger = logging.getLogger("samclip")
    handler = _Printer(level)
    propagates, level_before = logger.propagate, logger.level
    if level < logging.WARNING:
        logger.setLevel(level)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntrainedHeadWarning)
            warnings.simplefilter("always", InputWarning)
            show_other = warnings.showwarning

            def show(
                message: Warning | str, category: type[Warning], *place: Any, **to: Any
            ) -> None:
                if issubclass(category, InputWarning):
                    logger.warning("%s", message, extra={OF_INPUT: True})
                else:
                    show_other(message, category, *place, **to)

            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        logger.setLevel(level_before)
