"""Writers killed with SIGKILL: the old or the new is there, whole, and the next run cleans up.

The moments are random: `SAMCLIP_CRASH_SEED=7 pytest tests/attacks/test_crashes.py` draws others; a
failure prints its seed. Those between any two calls of the system are in test_disk_faults.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from figures import Figures
from writers_run import NAMES, run_writer, seed, sentence

QUICK = ("bundle", "plan", "blob", "texts")


@pytest.mark.parametrize("writer", QUICK)
def test_a_few_kills(writer: str, tmp_path: Path) -> None:
    found, _ = run_writer("kill", writer, tmp_path, 4, seed(), 2)
    assert found.get("old", 0) + found.get("new", 0) == 4


@pytest.mark.slow
@pytest.mark.parametrize("writer", NAMES)
def test_a_hundred_kills(writer: str, tmp_path: Path, figures: Figures) -> None:
    found, _ = run_writer("kill", writer, tmp_path, 100, seed(), 3)
    assert sum(found.get(state, 0) for state in ("old", "new", "absent")) == 100
    figures.add(
        "SIGKILL at random moments of a write: old or new, 0 partial, leftovers go with the next",
        count=100,
        found=f"{NAMES[writer]}: {told(found)}, {found['leftovers']} leftovers",
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
        found=f"{NAMES[writer]}: {told(found)}",
    )


def told(found: dict[str, int]) -> str:
    """Say what was there; a checkpoint being fetched may be there not at all."""
    states = [state for state in ("old", "new", "absent") if state in found]
    return sentence(found, *states)
