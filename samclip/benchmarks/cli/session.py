"""A run of a benchmark: models are opened, tables printed, and the report put together."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

import samclip
from samclip.benchmarks.cli.options import TeacherChoice
from samclip.benchmarks.latency.contenders import OpenModel, Variant, name_all, open_variant
from samclip.benchmarks.latency.timed import StageClock, TimedBackend
from samclip.benchmarks.measurements import Measurements
from samclip.benchmarks.records import Data, Report, Row, Subject
from samclip.benchmarks.report import (
    check_writable,
    describe_bundle,
    make_report,
    write_report,
    write_whole,
)
from samclip.benchmarks.roofline.counted import Counted, CountedBackend
from samclip.benchmarks.rows import rows_table
from samclip.benchmarks.scores import Candidate
from samclip.benchmarks.tables import Table, show_table
from samclip.benchmarks.teacher_settings import parse_teacher
from samclip.cli.exits import heed_stops, report_errors
from samclip.cli.progress import ConsoleProgress
from samclip.cli.terminal import SafeConsole, err, out, say, warn_untrained_head
from samclip.engines.base import Backend
from samclip.errors import CapabilityError
from samclip.runtime.model import Model

if TYPE_CHECKING:
    from samclip.benchmarks.teachers import ConseTeacher

B = TypeVar("B", bound=TimedBackend)
STOP_SECONDS = 5.0  # from a signal to the end: temporary folders and processes are cleared away
WIDTH_OF_FILES = 150  # columns of a table where stdout is not a terminal


@dataclass(frozen=True)
class Outcome:
    """What a benchmark returns: the data, how figures are defined, the rows, raw measurements.

    `files`: what else is to be written, each with what makes its bytes of the report.
    """

    data: Data
    protocol: Sequence[str]
    rows: Sequence[Row]
    measured: Measurements | None = None
    files: Sequence[tuple[Path, Callable[[Report], bytes]]] = ()


class Session:
    """The models of one run, and its report; use `open_session`."""

    def __init__(
        self,
        benchmark: str,
        stack: ExitStack,
        json: Path | None = None,
        threads: int | None = None,
    ) -> None:
        """Check that the report can be written; what the run opens is closed by `stack`."""
        self.progress = ConsoleProgress(err)
        self._benchmark = benchmark
        self._stack = stack
        self._json = None if json is None else check_writable(json, b"{")
        self._threads = threads
        self._subjects: list[Subject] = []
        self._start = time.monotonic()

    def make_folder(self) -> Path:
        """Make an empty folder that is removed at the end of the run."""
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="samclip-bench-")))

    def open(self, variant: Variant, role: str, *, names: bool = False) -> Candidate:
        """Load a bundle; `names`: warn if its head was never trained."""
        model = samclip.load(
            variant.bundle,
            backend=variant.backend,
            precision=variant.precision,
            engine_precision=variant.engine_precision,
            threads=variant.threads,
            device=variant.device,
            aspects=variant.aspects,
        )
        self._stack.enter_context(model)
        name = self._unique(model.manifest.name, role)
        self._add_bundle(model, name, role, variant.precision, names)
        return Candidate(name, model)

    def open_counted(
        self,
        variant: Variant,
        role: str,
        *,
        cache: Path | None = None,
        names: bool = False,
        name_role: bool = False,
    ) -> Counted:
        """Load a bundle so that the work of its graphs can be counted; as `open`.

        `cache`: folder of text embeddings, None for the usual one. `name_role`: the name has the
        role in it, whether another model is called so or not.
        """
        model, backend = open_variant(variant, cache, CountedBackend)
        self._stack.enter_context(model)
        bundle = model.manifest.name
        name = f"{bundle} ({role})" if name_role else self._unique(bundle, role)
        self._add_bundle(model, name, role, backend.precisions["encoder"], names)
        return Counted(name, variant, model, backend)

    def open_all(
        self, variants: Sequence[Variant], wrap: Callable[[Backend, StageClock], B]
    ) -> tuple[OpenModel[B], ...]:
        """Load every variant, named by what distinguishes them; text embeddings are made fresh."""
        folder, opened = self.make_folder(), []
        for number, variant in enumerate(variants):
            model, backend = open_variant(variant, folder / f"texts-{number}", wrap)
            self._stack.enter_context(model)
            opened.append((variant, model, backend))
        models = name_all(opened)
        for one in models:
            self._add_bundle(one.model, one.name, "measured", one.backend.precisions["encoder"])
        return models

    def open_teacher(self, options: TeacherChoice) -> tuple[str, ConseTeacher]:
        """Make a teacher; raises CapabilityError where torch is not installed."""
        settings = parse_teacher(options.teacher_options or ())
        try:
            from samclip.benchmarks.teachers import ConseTeacher  # noqa: PLC0415 - torch: seconds
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"a teacher needs {error.name}, which is not installed here. Install it: "
                "pip install 'samclip[export]'"
            ) from error
        teacher = ConseTeacher(settings, self._threads, lambda text: say(err, text))
        name = self._unique(str(options.teacher), "teacher")
        self.add(Subject(name=name, role="teacher", fingerprint=teacher.fingerprint))
        return name, teacher

    def add(self, subject: Subject) -> None:
        """List a model in the report."""
        self._subjects.append(subject)

    def show(self, *tables: Table) -> None:
        """Print tables on stdout."""
        for table in tables:
            wide_console().print(show_table(table))

    def finish(self, outcome: Outcome) -> None:
        """Put the report together, print its rows, and write it where --json says.

        Where raw measurements were shown already, only ratios are printed of the rows.
        """
        report = make_report(
            self._benchmark,
            self._subjects,
            outcome.data,
            outcome.protocol,
            outcome.rows,
            seconds=time.monotonic() - self._start,
            threads=self._threads,
            measured=outcome.measured,
        )
        everything = outcome.measured is None
        shown = [row for row in report.rows if everything or row.unit == "ratio"]
        if shown:
            self.show(rows_table((row for row in shown if not row.detail), report.rows))
        for line in report.protocol:
            say(out, f"- {line}", style="dim")
        if self._json is not None:
            write_report(report, self._json)
            say(err, f"report: {self._json}")
        for path, write in outcome.files:
            write_whole(path, write(report))
            say(err, f"written: {path}")

    def _unique(self, name: str, role: str) -> str:
        """Return a name that no other model has: with its role, then with a number."""
        taken = {subject.name for subject in self._subjects}
        if name not in taken:
            return name
        numbered = (f"{name} ({role} {number})" for number in itertools.count(2))
        tried = itertools.chain([f"{name} ({role})"], numbered)
        return next(one for one in tried if one not in taken)

    def _add_bundle(
        self, model: Model, name: str, role: str, precision: str | None, names: bool = False
    ) -> None:
        subject = describe_bundle(model, name, role, precision)
        self.add(subject)
        if names and subject.trained_head is False:
            warn_untrained_head()


def wide_console() -> Console:
    """Return stdout as a console that is wide where it is not a terminal."""
    return out if out.is_terminal else SafeConsole(file=out.file, width=WIDTH_OF_FILES)


@contextmanager
def open_session(
    benchmark: str, json: Path | None, threads: int | None, debug: bool
) -> Iterator[Session]:
    """Begin a run; at its end models are closed, and errors reported as in every command."""
    with report_errors(debug), heed_stops(STOP_SECONDS), ExitStack() as stack:
        yield Session(benchmark, stack, json, threads)
