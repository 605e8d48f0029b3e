"""One run of a benchmark: models opened, work timed, the report printed and written."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

import samclip
from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.progress import ConsoleTrack
from samclip.benchmarks.records import Data, Measurements, Report, Row, Subject
from samclip.benchmarks.report import check_writable, describe_bundle, make_report
from samclip.benchmarks.report import write_report as write
from samclip.benchmarks.roofline.counted import Counted, open_counted
from samclip.benchmarks.rows import show_rows
from samclip.benchmarks.scores import Candidate
from samclip.benchmarks.teacher_settings import parse_teacher
from samclip.cli.exits import report_errors
from samclip.cli.terminal import SafeConsole, err, out, say, show_logs, warn_untrained_head
from samclip.errors import CapabilityError
from samclip.runtime.model import Model

if TYPE_CHECKING:
    from samclip.benchmarks.teachers import ConseTeacher

WIDTH_OF_FILES = 150  # columns of a table where stdout is no terminal


@dataclass(frozen=True)
class Setup:
    """What the options that all benchmarks share say; None means the default."""

    bundle: str | None = None
    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    json: Path | None = None


class Session:
    """The models of one run, and its report; use `open_session`."""

    def __init__(self, benchmark: str, setup: Setup, models: ExitStack) -> None:
        self.track = ConsoleTrack(err)
        self._benchmark = benchmark
        self._setup = setup
        self._models = models
        self._json = None if setup.json is None else check_writable(setup.json)
        self._subjects: list[Subject] = []
        self._start = time.monotonic()

    def open_bundle(self, *, names: bool = False) -> Candidate:
        """Load the bundle that is measured; `names`: warn if its head was never trained."""
        candidate = self.open(self._setup.bundle or None, "measured")
        if names and self._subjects[-1].trained_head is False:
            warn_untrained_head()
        return candidate

    def open(self, name_or_path: str | None, role: str, setup: Setup | None = None) -> Candidate:
        """Load a bundle, None for the default one; it is closed at the end of the session.

        `setup`: backend, precision and threads, if not those of the session.
        """
        setup = setup or self._setup
        model = samclip.load(
            name_or_path, backend=setup.backend, precision=setup.precision, threads=setup.threads
        )
        self._models.enter_context(model)
        name = self._unique(model.manifest.name, role)
        self._subjects.append(describe_bundle(model, name, role, setup.precision))
        return Candidate(name, model)

    def open_counted(self, name_or_path: str | None, role: str, *, names: bool = False) -> Counted:
        """Load a bundle so that what its graphs do can be counted; as `open` and `open_bundle`."""
        setup = self._setup
        variant = Variant(name_or_path or None, setup.backend, setup.precision, setup.threads)
        model, backend = open_counted(variant, None)
        self.hold(model)
        name = self._unique(model.manifest.name, role)
        self.add(describe_bundle(model, name, role, backend.precisions["encoder"]))
        if names and self._subjects[-1].trained_head is False:
            warn_untrained_head()
        return Counted(name, model, backend)

    def open_teacher(self, kind: str, options: Sequence[str] | None) -> tuple[str, ConseTeacher]:
        """Make a teacher; raises CapabilityError where torch is not installed."""
        settings = parse_teacher(options or ())
        try:
            from samclip.benchmarks.teachers import ConseTeacher  # noqa: PLC0415 - torch: seconds
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"a teacher needs {error.name}, which is not installed here. Install it: "
                "pip install 'samclip[export]'"
            ) from error
        teacher = ConseTeacher(settings, self._setup.threads, lambda text: say(err, text))
        name = self._unique(kind, "teacher")
        self._subjects.append(Subject(name=name, role="teacher", fingerprint=teacher.fingerprint))
        return name, teacher

    def hold(self, model: Model) -> None:
        """Close a model that was loaded otherwise at the end of the session."""
        self._models.enter_context(model)

    def add(self, subject: Subject) -> None:
        """List a model in the report."""
        self._subjects.append(subject)

    def show(self, *tables: Table) -> None:
        """Print tables on stdout."""
        for table in tables:
            wide_console().print(table)

    def finish(
        self,
        data: Data,
        protocol: Sequence[str],
        rows: Sequence[Row],
        measured: Measurements | None = None,
    ) -> Report:
        """Put the report together, print its table, and write it where --json says.

        Where raw measurements were shown already, only ratios are printed of the rows.
        """
        report = make_report(
            self._benchmark,
            self._subjects,
            data,
            protocol,
            rows,
            seconds=time.monotonic() - self._start,
            threads=self._setup.threads,
            measured=measured,
        )
        shown = [row for row in report.rows if measured is None or row.unit == "ratio"]
        if shown:
            self.show(show_rows(shown))
        for line in report.protocol:
            say(out, f"- {line}", style="dim")
        if self._json is not None:
            write(report, self._json)
            say(err, f"report: {self._json}")
        return report

    def _unique(self, name: str, role: str) -> str:
        """Tell models of the same name apart: by their roles, then by numbers."""
        taken = {subject.name for subject in self._subjects}
        if name not in taken:
            return name
        numbered = (f"{name} ({role} {number})" for number in itertools.count(2))
        tried = itertools.chain([f"{name} ({role})"], numbered)
        return next(one for one in tried if one not in taken)


def wide_console() -> Console:
    """Give stdout as a console: of the terminal's width, and wide where it is none."""
    return out if out.is_terminal else SafeConsole(file=out.file, width=WIDTH_OF_FILES)


@contextmanager
def open_session(benchmark: str, setup: Setup, debug: bool) -> Iterator[Session]:
    """Begin a run; its models are closed at the end, and errors told as every command does."""
    with report_errors(debug), show_logs(), ExitStack() as models:
        yield Session(benchmark, setup, models)
