"""Several processes that write to one place at once: a valid file, and no crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from figures import Figures
from writer_runs import NAMES, run_writer

PLACES = {**NAMES, "new bundle": "bundle of a free name"}


@pytest.mark.parametrize("writer", ["bundle", "new bundle", "plan", "texts"])
def test_builders_at_one_target_three_times(writer: str, tmp_path: Path) -> None:
    found, _ = run_writer("together", writer, tmp_path, 3, 2)
    assert found["written"] + found["refused"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("writer", PLACES)
def test_builders_at_one_target_fifty_times(
    writer: str, processes: int, tmp_path: Path, figures: Figures
) -> None:
    found, _ = run_writer("together", writer, tmp_path, 50, processes)
    refused = f", {found['refused']} refused, for the name is taken" if found["refused"] else ""
    figures.add(
        f"{processes} processes at one target: one valid result a round, no crash, no hang",
        count=50,
        found=f"{PLACES[writer]}: {found['written']} ended well{refused}",
    )
