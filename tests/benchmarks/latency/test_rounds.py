from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timed_fakes import contender, timed_model

from samclip.benchmarks.latency import rounds
from samclip.benchmarks.latency.contenders import Variant, combine, name_all
from samclip.benchmarks.latency.photo_pipeline import Piece, Walk, Workload
from samclip.benchmarks.latency.rounds import Schedule, measure_cold, measure_warm
from samclip.progress import SILENT
from samclip.runtime.pixels.image import load_image

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


def test_each_shape_is_ready_before_the_rounds_and_photos_are_decoded_once(
    calls: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a photo that its file says is to be turned is the first of the shape it then has."""
    wide, tall, turned = (tmp_path / name for name in ("wide.png", "tall.png", "turned.jpg"))
    Image.new("RGB", (40, 30)).save(wide)
    Image.new("RGB", (30, 40)).save(tall)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (40, 30)).save(turned, exif=exif)
    decoded: list[str] = []

    def load(photo: Path) -> np.ndarray:
        decoded.append(photo.name)
        return load_image(photo)

    monkeypatch.setattr(rounds, "load_image", load)
    shapes = ((192, 256), (256, 192))
    models = [contender("a", canvases=shapes), contender("b", canvases=shapes), contender("c")]
    photos = [wide, tall, turned]
    measure_warm(models, Schedule(0, 0, 1), photos, SHORT, SILENT)
    assert decoded == ["wide.png", "tall.png", "turned.jpg"]
    ready = {(name, photo) for name, photo in calls[:4]}
    assert ready == {(name, photo) for name in "ab" for photo in ("wide.png", "turned.jpg")}
    assert calls[4:] == [("a", "wide.png"), ("b", "wide.png"), ("c", "wide.png")]


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
