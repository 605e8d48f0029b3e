"""Turns: who runs when, and what a failure changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_peers import BROKEN_LOAD, BROKEN_RUN, SOUND, TASKS, fake_contender

from samclip.benchmarks.latency.photo_pipeline import ALL_STEPS, THREE_TASKS
from samclip.benchmarks.latency.results import make_rows
from samclip.benchmarks.latency.rounds import Schedule
from samclip.progress import SILENT
from tools.peers.results import ENCODED, make_memory, make_timings
from tools.peers.turns import measure_peers

PHOTOS = [Path("a.jpg"), Path("b.jpg")]


@pytest.fixture(autouse=True)
def unsettled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.peers.turns.SETTLE", 0.0)


def test_turns_alternate_photo_by_photo(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write(f'{{{{name}}}} {{{{photo}}}}\\n')"
    contenders = [
        fake_contender(
            tmp_path, name, SOUND.format(delay=0, more=f"name = {name!r}; {write.format()}")
        )
        for name in "xy"
    ]
    outcomes = measure_peers(contenders, Schedule(0, 1, 3), PHOTOS, print, SILENT)
    turns = log.read_text().splitlines()
    assert turns == [
        *("y b.jpg", "x b.jpg"),  # the warm-up, which is not kept
        *("x a.jpg", "y a.jpg", "y b.jpg", "x b.jpg", "x a.jpg", "y a.jpg"),
    ]
    assert [len(outcome.rounds) for outcome in outcomes] == [3, 3]


def test_who_fails_has_a_reason_and_the_others_go_on(tmp_path: Path) -> None:
    told: list[str] = []
    contenders = [
        fake_contender(tmp_path, "late", BROKEN_RUN),
        fake_contender(tmp_path, "never", BROKEN_LOAD),
        fake_contender(tmp_path, "sound", SOUND.format(delay=0.01, more="pass")),
        fake_contender(tmp_path, "slow", SOUND.format(delay=0.03, more=TASKS)),
    ]
    outcomes = measure_peers(contenders, Schedule(0, 1, 3), PHOTOS, told.append, SILENT)
    reasons = {outcome.contender.name: outcome.reason for outcome in outcomes}
    assert reasons == {
        "late": "ValueError: the third photo is too much",
        "never": "MemoryError: no room for it",
        "sound": None,
        "slow": None,
    }
    assert sum("takes no further part" in line for line in told) == 2
    timings = make_timings(outcomes, len(PHOTOS))
    assert {timing.model for timing in timings} == {"sound", "slow"}
    assert {use.model for use in make_memory(outcomes)} == {"sound", "slow"}
    ratios = [row for row in make_rows(timings) if row.unit == "ratio"]
    assert {row.model for row in ratios} == {"slow / sound"}
    encoder = next(row for row in ratios if row.measure.startswith("stage: encoder"))
    assert encoder.value == pytest.approx(3)


def test_totals_add_up(tmp_path: Path) -> None:
    contender = fake_contender(tmp_path, "all", SOUND.format(delay=0.01, more=TASKS))
    outcomes = measure_peers([contender], Schedule(0, 0, 2), PHOTOS, print, SILENT)
    found = {timing.name: timing for timing in make_timings(outcomes, len(PHOTOS))}
    (first, _) = outcomes[0].rounds
    assert found[ALL_STEPS].samples[0] == pytest.approx(sum(first.values()))
    assert found[THREE_TASKS].samples[0] == pytest.approx(first["encoder"] + 0.003)
    stages = [timing for timing in found.values() if timing.part_of == ENCODED]
    totals = [sum(samples) for samples in zip(*(t.samples for t in stages), strict=True)]
    assert totals == pytest.approx(list(found[ENCODED].samples))
