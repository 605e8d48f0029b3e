from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from timed_fakes import contender, timed_model

from samclip.benchmarks.latency import rounds
from samclip.benchmarks.latency.contenders import Variant, combine, name_all
from samclip.benchmarks.latency.photo_pipeline import Piece, Walk, Workload
from samclip.benchmarks.latency.rounds import Schedule, measure_cold, measure_warm
from samclip.progress import SILENT

SHORT = Workload(many=False, refined=False, text=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Which model walked which photo, in order; a walk takes as many seconds as were before."""
    made: list[tuple[str, str]] = []

    def run(self: Walk, photo: Path) -> tuple[Piece, ...]:
        made.append((self._contender.name, photo.name))
        stages = () if photo.name == "q" else (Piece("stage", "rare", 1.0, part_of="x"),)
        return (Piece("task", "x", float(len(made))), *stages)

    monkeypatch.setattr(Walk, "run", run)
    yield made


def test_models_take_turns_and_the_order_is_turned_round(calls: list[tuple[str, str]]) -> None:
    both = (contender("a"), contender("b"))
    photos = [Path("p"), Path("q")]
    timings = measure_warm(both, Schedule(0, 1, 3), photos, SHORT, SILENT)
    assert calls == [
        *(("a", "q"), ("b", "q")),
        *(("b", "p"), ("a", "p")),
        *(("a", "q"), ("b", "q")),
        *(("b", "p"), ("a", "p")),
    ]
    found = {(timing.model, timing.name): timing for timing in timings}
    assert found["a", "x"].samples == (4.0, 5.0, 8.0)  # the warm-up is not kept
    assert found["b", "x"].samples == (3.0, 6.0, 7.0)
    assert found["a", "x"].photos == 2
    assert found["a", "rare"].samples == (1.0, 0.0, 1.0)  # the photo q had no such stage


def test_no_further_round_begins_when_the_time_is_over(calls: list[tuple[str, str]]) -> None:
    (timing, _) = measure_warm((contender(),), Schedule(0, 1, 50, 0.0), [Path("p")], SHORT, SILENT)
    assert len(timing.samples) == rounds.FEWEST


def test_cold_models_are_fresh_and_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo_path: Path
) -> None:
    opened = []

    def open_variant(variant: Variant, cache: Path, wrap: object) -> object:
        opened.append((cache, *timed_model()))
        return opened[-1][1:]

    monkeypatch.setattr(rounds, "open_variant", open_variant)
    first = contender()
    timings = measure_cold((first,), Schedule(cold=2), [photo_path], tmp_path, SILENT)
    assert len({cache for cache, *_ in opened}) == 2
    assert all("closed" in repr(model) for _, model, _ in opened)
    assert "closed" not in repr(first.model)
    found = {timing.name: timing for timing in timings}
    assert found[rounds.LOAD].state == "cold"
    assert len(found[rounds.LOAD].samples) == 2
    assert "encoder" in found


def test_every_bundle_runs_on_every_backend_in_every_precision() -> None:
    assert combine([], [], [], 2) == (Variant(None, "auto", None, 2),)
    found = combine(["x", "y"], ["cuda"], ["fp32", "int8"], None)
    assert found == (
        Variant("x", "cuda", "fp32"),
        Variant("x", "cuda", "int8"),
        Variant("y", "cuda", "fp32"),
        Variant("y", "cuda", "int8"),
    )


def test_names_say_what_differs() -> None:
    def names(*precisions: str) -> list[str]:
        opened = [(Variant(), *timed_model()) for _ in precisions]
        for (_, _, backend), precision in zip(opened, precisions, strict=True):
            backend.precisions["encoder"] = precision
        return [one.name for one in name_all(opened)]

    assert names("fp32") == ["fake"]
    assert names("fp32", "int8") == ["fake fp32", "fake int8"]
    assert names("fp32", "fp32", "fp32") == ["fake", "fake #2", "fake #3"]
