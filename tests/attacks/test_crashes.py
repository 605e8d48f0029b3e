"""Writers killed with SIGKILL: the old or the new version is whole, and the next run cleans up.

The moments are random: `SAMCLIP_CRASH_SEED=7 pytest tests/attacks/test_crashes.py` draws others; a
failure prints its seed. test_disk_faults.py kills writers at each of their system calls.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from figures import Figures
from writer_runs import NAMES, run_writer, seed, sentence

QUICK = ("bundle", "deploy", "plan", "blob", "texts")


@pytest.mark.parametrize("writer", QUICK)
def test_a_few_kills_of_a_writer(writer: str, tmp_path: Path) -> None:
    found, _ = run_writer("kill", writer, tmp_path, 4, seed(), 2)
    assert found.get("old", 0) + found.get("new", 0) == 4


@pytest.mark.slow
@pytest.mark.parametrize("writer", NAMES)
def test_a_hundred_kills_of_a_writer(writer: str, tmp_path: Path, figures: Figures) -> None:
    found, _ = run_writer("kill", writer, tmp_path, 100, seed(), 3)
    assert sum(found.get(state, 0) for state in ("old", "new", "absent")) == 100
    figures.add(
        "SIGKILL at random moments of a write: old or new, 0 partial, leftovers go with the next",
        count=100,
        found=f"{NAMES[writer]}: {describe(found)}, {found['leftovers']} leftovers",
    )


@pytest.mark.slow
@pytest.mark.parametrize("writer", NAMES)
def test_killed_and_started_again_fifty_times(
    writer: str, tmp_path: Path, figures: Figures
) -> None:
    found, _ = run_writer("kill", writer, tmp_path, 50, seed() + 1, 50)
    figures.add(
        "SIGKILL and start again: old or new, 0 partial, never more left over than by one writer",
        count=50,
        found=f"{NAMES[writer]}: {describe(found)}",
    )


def describe(found: dict[str, int]) -> str:
    """Return in words what was found; only checkpoints may be absent."""
    states = [state for state in ("old", "new", "absent") if state in found]
    return sentence(found, *states)
