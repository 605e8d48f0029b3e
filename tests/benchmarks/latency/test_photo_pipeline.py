from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from timed_fakes import contender, region_contender, timed_model

from samclip.benchmarks.latency import photo_pipeline as steps
from samclip.benchmarks.latency.photo_pipeline import Piece, Walk, Workload, names_for
from samclip.benchmarks.latency.timed import COPIES, StageClock, TimedEngine, TimedTensor
from samclip.engines.base import ArrayTensor

DELAY = 0.02  # seconds that a fake graph sleeps: much more than the fake computes


def walk_once(clip: bool = True, everything: bool = False) -> dict[tuple[str, str | None], Piece]:
    one = Walk(contender(delay=DELAY, clip=clip), Workload(everything=everything))
    one.prepare()
    from samclip.runtime.assets import packaged_photos

    pieces = one.run(packaged_photos() / "coffee.jpg")
    found = {(piece.name, piece.part_of): piece for piece in pieces}
    assert len(found) == len(pieces), "two pieces of one name"
    return found


def test_stages_add_up_to_their_whole() -> None:
    found = walk_once()
    wholes = {part_of for _, part_of in found} - {None}
    assert wholes == {steps.ALL_STEPS, steps.REFINED}
    for whole in wholes:
        parts = [piece.seconds for (_, part_of), piece in found.items() if part_of == whole]
        assert sum(parts) == pytest.approx(found[whole, None].seconds)
        assert min(parts) >= 0


def test_graphs_are_told_from_work_on_the_host() -> None:
    found = walk_once()
    for stage in ("encoder", "CLIP head", "mask decoder"):
        assert found[stage, steps.ALL_STEPS].seconds >= DELAY
    assert found[steps.POINTS, None].items == 16
    three = found[steps.THREE_TASKS, None].seconds
    assert 3 * DELAY <= three <= found[steps.ALL_STEPS, None].seconds


def test_engines_that_are_loaded_on_first_use_are_a_stage_of_their_own(photo_path: Path) -> None:
    walk = Walk(contender(delay=DELAY), Workload(many=False, refined=False))
    walk.prepare()
    first, second = (
        {piece.name: piece.seconds for piece in walk.run(photo_path) if piece.part_of}
        for _ in range(2)
    )
    assert first["load engines"] >= 2 * DELAY  # the head's and the decoder's
    assert "load engines" not in second


def test_the_head_runs_once_for_each_photo(photo_path: Path) -> None:
    one = contender()
    walk = Walk(one, Workload())
    walk.prepare()
    walk.run(photo_path)
    engines = one.backend.inner.engines  # type: ignore[attr-defined]
    assert len(engines["clip_head"].batches) == 1
    assert engines["mask_decoder"].batches[:3] == [1, 1, 16]  # a point, a box, 16 points


def test_a_bundle_without_a_head_is_timed_without_names() -> None:
    found = walk_once(clip=False)
    assert (steps.CLASSIFY, None) not in found
    assert (steps.THREE_TASKS, None) not in found
    assert ("mask decoder", steps.ALL_STEPS) in found
    assert names_for(contender(clip=False).model) == ()


def test_a_bundle_that_names_boxes_names_a_mask_in_place_of_a_map(photo_path: Path) -> None:
    walk = Walk(region_contender(delay=DELAY), Workload())
    walk.prepare()
    found = {(piece.name, piece.part_of): piece.seconds for piece in walk.run(photo_path)}
    stages = [seconds for (_, whole), seconds in found.items() if whole == steps.NO_MAP]
    assert sum(stages) == pytest.approx(found[steps.NO_MAP, None])
    for stage in ("encoder", "mask decoder", "RoI classifier", "CLIP RoI"):
        assert found[stage, steps.NO_MAP] >= DELAY
    assert found[steps.NAME, None] >= 2 * DELAY  # both classifiers
    assert steps.way_of(region_contender().model) == steps.NO_MAP
    assert steps.way_of(contender().model) == steps.ALL_STEPS
    absent = {steps.ALL_STEPS, steps.THREE_TASKS, steps.COARSE, steps.REFINED}
    assert not absent & {name for name, _ in found}


def test_labels_stand_in_for_names_where_there_is_no_text_encoder() -> None:
    assert names_for(contender().model) == ("red", "green", "blue")


def test_engines_take_back_the_tensors_they_gave() -> None:
    model, backend = timed_model()
    with model.encode(np.zeros((64, 64, 3), np.uint8)) as scene:
        embeddings = scene.features.check_open()["image_embeddings"]
        assert isinstance(embeddings, TimedTensor)
        assert isinstance(embeddings.inner, ArrayTensor)
        scene.segment(points=[(5, 5)])  # the fake would not know a TimedTensor
    assert set(backend.precisions) == {"encoder", "mask_decoder"}


@pytest.mark.parametrize(("on_host", "copies"), [(True, set()), (False, {COPIES})])
def test_a_device_is_waited_for_and_the_host_is_not(on_host: bool, copies: set[str]) -> None:
    class Slow:
        shape = (1, 2)

        def numpy(self) -> np.ndarray:
            return np.zeros(self.shape)

    class Engine:
        input_names = output_names = ()

        def run(self, feeds: object, outputs: object = None) -> dict[str, Slow]:
            return {"y": Slow()}

        def close(self) -> None:
            pass

    clock = StageClock()
    engine = TimedEngine(Engine(), "graph", clock, on_host)  # type: ignore[arg-type]
    step = clock.time(lambda: engine.run({}))
    assert set(step.inside) == {"graph", *copies}


def test_time_of_several_threads_counts_once() -> None:
    times = iter([0.0, 10.0])
    clock = StageClock(lambda: next(times))

    def work() -> None:
        for start, end in ((1, 4), (2, 3), (3, 6), (8, 9)):
            clock.add("graph", start, end)

    step = clock.time(work)
    assert step.inside == {"graph": 6.0}
    assert (step.seconds, step.rest) == (10.0, 4.0)
