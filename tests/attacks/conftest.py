"""Fixtures of the attacks: figures for docs/evidence/faults.md, bundles, backends, environments.

The option `--figures FILE` writes the figures; see figures.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from figures import PROPERTY, Figure, Figures, merge_figures, rewrite_table

from samclip.engines.registry import get_backend

OPTION = "--figures"
MEMORY = "/dev/shm"  # a disk of Linux in memory
HERE = Path(__file__).parent
# For scripts of this folder that run in separate processes: the folders that they import from.
PATHS = [HERE, HERE.parent / "support", HERE.parents[1]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION,
        type=Path,
        metavar="FILE",
        help="write what the attacks found into the table of this page, if all of them passed",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist send reports; the process that prints them also writes the page.
    page = config.getoption(OPTION, None)
    if page is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FigureWriter(page))


@pytest.fixture(scope="session")
def coloured_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of small graphs, for every backend; see coloured_bundle.py."""
    from coloured_bundle import write_coloured_bundle

    return write_coloured_bundle(tmp_path_factory.mktemp("coloured") / "bundle")


@pytest.fixture(scope="module", params=("onnxruntime", "openvino"))
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend for CPUs that works here."""
    probe = get_backend(request.param).probe()
    if not probe.available:
        pytest.skip(probe.detail)
    return str(request.param)


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if there can be one: the same calls are made, and no disk waited for."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        folder = Path(made, "writer")
        folder.mkdir()
        yield folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment variables for scripts of this folder: their imports, and a fresh cache."""
    paths = os.pathsep.join(map(str, PATHS))
    return {**os.environ, "PYTHONPATH": paths, "SAMCLIP_CACHE_DIR": str(tmp_path)}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Collects what the test found, for the table of docs/evidence/faults.md."""
    return Figures(request.node.user_properties)


class FigureWriter:
    """Collects the figures of all tests, and writes them at the end of a run that passed."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.figures: list[Figure] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        test, slow = report.nodeid.partition("[")[0], "slow" in report.keywords
        for name, value in report.user_properties:
            if name == PROPERTY:
                fault, count, found = value
                self.figures.append(Figure(fault, count, found, test, slow))

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: pytest.ExitCode
    ) -> None:
        rows = merge_figures(self.figures)
        if exitstatus != pytest.ExitCode.OK:
            terminalreporter.write_line(f"{self.page} is unchanged: not every test passed")
            return
        rewrite_table(self.page, rows, datetime.now(timezone.utc).date().isoformat())
        terminalreporter.write_line(f"{self.page}: {len(rows)} rows of figures written")
