"""Figures of a run: collected from tests that passed, written between the markers of a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from figures import BEGIN, END, PROPERTY, Figure, Figures, merge_figures, rewrite_table

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "faults.md"
OLD = "| old fault | 3 | all refused | `a.py::test_a` | 2026-01-02 |"
TESTS = """
import pytest

@pytest.mark.parametrize("kind", ["a", "b"])
@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_flips(figures, kind, count):
    figures.add("flips", count=count, found="all refused")

def test_other(figures):
    figures.add("other", count=1, found="an error")
"""


def page(folder: Path, table: str = OLD) -> Path:
    path = folder / "faults.md"
    path.write_text(f"# Faults\n\n{BEGIN}\n{table}\n{END}\nthe end\n", "utf-8")
    return path


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder of tests with the option and the fixture."""
    pytester.makeconftest((HERE / "conftest.py").read_text("utf-8"))
    pytester.makeini(f"[pytest]\nmarkers = slow\npythonpath = {HERE}\n")
    pytester.makepyfile(test_some=TESTS)
    page(pytester.path)
    return pytester


@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)],
    ids=["one process", "two workers"],
)
def test_a_run_writes_its_rows_and_keeps_the_others(
    run: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    result = run.runpytest_inprocess("--figures", "faults.md", *workers)
    result.assert_outcomes(passed=5)
    text = (run.path / "faults.md").read_text("utf-8")
    flips, old, other = (
        line for line in text.splitlines() if line.startswith("| o") or "fl" in line
    )
    assert flips.startswith("| flips | 100 | all refused | `test_some.py::test_flips` | 20")
    assert old == OLD
    assert other.startswith("| other | 1 | an error | `test_some.py::test_other` | 20")
    assert text.endswith("\nthe end\n")


def test_a_run_with_a_failure_writes_nothing(run: pytest.Pytester) -> None:
    run.makepyfile(test_bad="def test_bad(): raise ValueError")
    before = (run.path / "faults.md").read_bytes()
    result = run.runpytest_inprocess("--figures", "faults.md")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(["*faults.md is unchanged: not every test passed*"])
    assert (run.path / "faults.md").read_bytes() == before


def test_without_the_option_nothing_is_written(run: pytest.Pytester) -> None:
    before = (run.path / "faults.md").read_bytes()
    run.runpytest_inprocess().assert_outcomes(passed=5)
    assert (run.path / "faults.md").read_bytes() == before


def test_some_and_all_of_the_cases_are_not_added_up() -> None:
    rows = merge_figures(
        [
            Figure("flips", 60, "refused", "tests/a.py::test_a", slow=False),
            Figure("flips", 1500, "refused", "tests/a.py::test_a", slow=True),
            Figure("flips", 7, "an error", "b.py::test_b", slow=False),
        ]
    )
    assert rows == {"flips": ("flips", "1,507", "refused; an error", "`a.py`, `b.py`")}


def test_rows_are_sorted_and_replaced(tmp_path: Path) -> None:
    path = page(tmp_path)
    rewrite_table(
        path, {"Zeros": ("Zeros", "1", "x", "t"), "a": ("a", "1", "x", "t")}, "2026-01-03"
    )
    rewrite_table(path, {"a": ("a", "2", "y", "t")}, "2026-01-04")
    rows = [line for line in path.read_text("utf-8").splitlines() if line.startswith("| ")][1:]
    assert rows == ["| a | 2 | y | t | 2026-01-04 |", OLD, "| Zeros | 1 | x | t | 2026-01-03 |"]


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# Faults\n", "utf-8")
    with pytest.raises(ValueError, match="has no table of figures"):
        rewrite_table(path, {}, "2026-01-03")
    assert path.read_text("utf-8") == "# Faults\n"


@pytest.mark.parametrize("found", ["", "a | b", "two\nlines", " space "])
def test_texts_that_do_not_fit_a_cell(found: str) -> None:
    with pytest.raises(ValueError, match="does not fit a cell"):
        Figures([]).add("fault", count=1, found=found)


def test_a_count_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="shows nothing"):
        Figures([]).add("fault", count=0, found="nothing")


def test_the_fixture(figures: Figures, request: pytest.FixtureRequest) -> None:
    figures.add("fault", count=2, found="nothing")
    assert request.node.user_properties == [(PROPERTY, ("fault", 2, "nothing"))]
    request.node.user_properties.clear()  # this is not a figure


def test_the_page_of_the_docs_has_the_table(tmp_path: Path) -> None:
    copy = tmp_path / "faults.md"
    copy.write_bytes(PAGE.read_bytes())
    rewrite_table(copy, {}, "2026-01-03")
    assert copy.read_bytes() == PAGE.read_bytes()


def test_every_row_of_the_docs_names_tests_that_exist() -> None:
    table = PAGE.read_text("utf-8").partition(BEGIN)[2]
    for file, function in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", table):
        text = (HERE / file).read_text("utf-8")
        assert not function or f"def {function}(" in text
