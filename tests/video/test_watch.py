"""The loop: order, overlap, names that change, what is left out, and its ends."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from stream_server import CUT, served, write_video
from watch_fakes import SquareModel, SquareScene, masks_of, square

import samclip
from samclip.runtime.results.masks import Masks
from samclip.video.pace import Budget, choices_for


def moving(count: int) -> list[np.ndarray]:
    return [square(2 + step, 10) for step in range(count)]


def test_every_frame_is_answered_in_order_with_one_track() -> None:
    model = SquareModel()
    with model.watch(moving(30), ["cup"]) as watch:
        results = list(watch)
    assert [result.number for result in results] == list(range(30))
    assert [result.tracks.tolist() for result in results] == [[1]] * 30
    assert [int(result.masks.boxes[0, 0]) for result in results] == list(range(2, 32))
    assert {result.names for result in results} == {("cup",)}
    assert all(result.age_ms >= 0 and abs(result.stamp - time.time()) < 60 for result in results)
    assert {"encode", "prompts", "tracks"} <= set(results[-1].timings)
    assert model.open_scenes == 0


def test_the_encoder_works_while_the_caller_answers() -> None:
    model = SquareModel()
    encoded = []

    def ask(scene: SquareScene) -> Masks:
        """Answer a frame only once the next one has been encoded, which needs another thread."""
        until = time.monotonic() + 30
        while model.encoded < len(encoded) + 2 and time.monotonic() < until:
            time.sleep(0.001)
        encoded.append(model.encoded)
        return masks_of(scene.image, [scene.image[..., 0] > 128])

    with model.watch(moving(6), ask=ask) as watch:
        for _ in range(5):
            next(watch)
    assert all(count >= number + 2 for number, count in enumerate(encoded))
    assert model.most_open <= 3  # answered, waiting, and just encoded


def test_names_may_be_set_from_another_thread_and_wrong_ones_stay_with_it() -> None:
    with SquareModel(answer_seconds=0.01).watch(moving(40), ["cup"]) as watch:
        assert next(watch).names == ("cup",)
        raised: list[BaseException] = []

        def rename() -> None:
            watch.names = ["bowl", "plate"]
            try:
                watch.names = []
            except samclip.VocabularyError as error:
                raised.append(error)

        thread = threading.Thread(target=rename)
        thread.start()
        thread.join()
        assert next(watch).masks.vocabulary == watch.names == ("bowl", "plate")
        watch.names = None
        assert next(watch).names is None
    assert len(raised) == 1


def test_a_prompt_of_the_first_frame_is_followed() -> None:
    model = SquareModel()
    with model.watch(moving(5), ["cup"], boxes=[(2, 10, 14, 22)]) as watch:
        results = list(watch)
    assert model.asked == [{"boxes": [(2, 10, 14, 22)]}]
    assert [result.tracks.tolist() for result in results] == [[1]] * 5
    assert int(results[4].masks.boxes[0, 0]) == 6


def test_a_function_of_the_caller_answers_and_its_masks_are_named() -> None:
    with SquareModel().watch(
        moving(3), ["cup"], ask=lambda scene: masks_of(scene.image, [scene.image[..., 0] > 128])
    ) as watch:
        assert [result.names for result in watch] == [("cup",)] * 3
    watch = SquareModel().watch(moving(1), ask=lambda scene: 3)
    with watch, pytest.raises(samclip.InputError, match="ask must return Masks"):
        next(watch)


def test_frames_are_left_out_on_purpose_and_counted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [200] * 50)  # 2 seconds
    with SquareModel().watch(video, every_n=4) as watch:
        assert [result.number for result in watch] == list(range(0, 50, 4))
    with SquareModel().watch(video, max_fps=5) as watch:
        results = list(watch)
    assert len(results) == 10
    assert watch.skipped == 40


def test_still_frames_are_answered_without_the_encoder() -> None:
    noise = np.random.default_rng(0)
    frames = [square(10, 10)] * 6 + [square(20, 10)] * 4
    noisy = [np.clip(f + noise.normal(0, 2, f.shape), 0, 255).astype(np.uint8) for f in frames]
    model = SquareModel()
    with model.watch(noisy, skip_still=8) as watch:
        results = list(watch)
    assert model.encoded == 2
    assert [result.reused for result in results] == [False] + [True] * 5 + [False] + [True] * 3
    assert all((r.image == f).all() for r, f in zip(results, noisy, strict=True))
    model = SquareModel()
    with model.watch(frames) as watch:
        list(watch)
    assert model.encoded == 10  # off by default
    model = SquareModel()
    small = square(10, 10)
    sizes = [small, small.repeat(2, 0).repeat(2, 1), small]  # the same picture, in other sizes
    with model.watch(sizes, skip_still=8) as watch:
        results = list(watch)
    assert model.encoded == 3
    assert [r.masks.packed.size for r in results] == [frame.shape[:2] for frame in sizes]


def test_a_slow_loop_over_a_live_source_answers_the_newest_frame() -> None:
    decoded_before: list[int] = []
    with served([level % 250 for level in range(400)]) as server:
        model = SquareModel()

        def ask(scene: SquareScene) -> Masks:
            """Take as long as the camera needs for ten more frames."""
            until, enough = time.monotonic() + 30, watch.stream._decoded + 10
            decoded_before.append(watch.stream._decoded)
            while watch.stream._decoded < enough and time.monotonic() < until:
                time.sleep(0.001)
            return masks_of(scene.image, [])

        options = {"timeout": 20.0, "reconnect": 0.0}
        with model.watch(server.url, policy="latest", ask=ask, **options) as watch:
            results = [next(watch) for _ in range(8)]
    numbers = [result.number for result in results]
    assert numbers == sorted(set(numbers))
    assert results[-1].dropped >= 40  # of the 80 that came meanwhile, and most wait for nobody
    # A frame was at most one answer old, about ten frames, when its own answer began.
    assert all(now - number <= 40 for now, number in zip(decoded_before, numbers, strict=True))


def test_frames_of_other_sizes_in_one_stream() -> None:
    frames = [square(10, 10), np.kron(square(11, 10), np.ones((2, 2, 1), np.uint8)), square(12, 10)]
    with SquareModel().watch(frames) as watch:
        results = list(watch)
    assert [result.image.shape[:2] for result in results] == [(48, 64), (96, 128), (48, 64)]
    assert [result.tracks.tolist() for result in results] == [[1]] * 3


def test_closing_in_the_middle_ends_threads_and_scenes() -> None:
    model = SquareModel(encode_seconds=0.01)
    watch = model.watch(moving(1000))
    next(watch)
    watch.close()
    watch.close()
    assert not watch._thread.is_alive()
    assert not watch.stream._thread.is_alive()
    assert model.open_scenes == 0
    with pytest.raises(samclip.ClosedError):
        next(watch)


def test_errors_of_the_stream_and_of_the_encoder_reach_the_caller() -> None:
    with served([10, 20, 30, CUT]) as server:
        watch = SquareModel().watch(server.url, timeout=5.0, reconnect=0.0)
        with watch, pytest.raises(samclip.StreamLostError):
            list(watch)
    frames = [square(1, 1), "no array"]
    with SquareModel().watch(frames) as watch, pytest.raises(samclip.InputError, match="arrays"):
        list(watch)


@pytest.mark.parametrize("module", ["stream", "watch"])
def test_without_memory_for_a_thread_it_is_an_error_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """`Thread.start` would wait forever for a thread that finds no memory to begin."""

    def short() -> None:
        raise MemoryError

    before = set(threading.enumerate())
    monkeypatch.setattr(f"samclip.video.{module}.require_room_for_thread", short)
    with pytest.raises(samclip.DeviceMemoryError, match="too little free memory"):
        samclip.Model.watch(SquareModel(), moving(1))  # type: ignore[arg-type]
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize(
    "options",
    [
        {"every_n": 0},
        {"every_n": 1.5},
        {"max_fps": 0},
        {"skip_still": -1},
        {"budget_ms": float("nan")},
        {"tracker": object()},
        {"points_per_sid": 4},
        {"ask": len, "boxes": [(1, 1, 2, 2)]},
        {"boxes": [(1, 1, 2, 2)], "points_per_side": 4},
        {"policy": "newest"},
    ],
)
def test_options_that_are_refused(options: dict) -> None:
    with pytest.raises(samclip.InputError):
        SquareModel().watch(moving(1), **options)


BIG, FLAT = (64, 64), (48, 64)  # canvases (h, w)
LITTLE = (24, 32)


def test_the_inputs_for_a_frame_are_those_that_show_it_best_for_their_pixels() -> None:
    model = SquareModel(canvases=(BIG, FLAT, (64, 48), (36, 64)))
    small = SquareModel(canvases=((32, 32), LITTLE))

    def canvases(size: tuple[int, int]) -> list[tuple[int, int]]:
        return [choice.canvas for choice in choices_for([model, small], size)]

    # 4:3: the square is no better than 48 x 64, upright ones and the small square show less.
    assert canvases((480, 640)) == [FLAT, (36, 64), LITTLE]
    assert canvases((500, 500)) == [BIG, FLAT, (36, 64), (32, 32), LITTLE]
    assert canvases((360, 640)) == [(36, 64), LITTLE]


def spend(budget: Budget, frames: int, ms_a_pixel: float, ms_a_point: float) -> list[tuple]:
    """Let frames take time by a model of their costs; return the work on each."""
    choices = choices_for(
        [SquareModel(canvases=(BIG, (32, 64))), SquareModel(canvases=((16, 16),))], BIG
    )
    seen = []
    for _ in range(frames):
        effort, points = budget.choose(choices), budget.options()["points_per_side"]
        seen.append((effort.choice.canvas, points))
        budget.spent(effort, ms_a_pixel * effort.choice.pixels, ms_a_point * points**2)
    return seen


def test_a_budget_chooses_inputs_and_grids_that_keep_it() -> None:
    budget: Budget = Budget(100.0, {"points_per_side": 16})
    easy = spend(budget, 20, 0.01, 0.1)  # 41 + 26 ms
    assert set(easy) == {(BIG, 16)}
    slow_encoder = spend(budget, 20, 0.04, 0.05)  # 164 ms for the largest input
    assert slow_encoder[0] == (BIG, 16) and slow_encoder[-1] == ((32, 64), 16)
    slow_answer = spend(budget, 20, 0.01, 0.6)  # 154 ms for 16 points a side
    assert slow_answer[-1] == (BIG, 8)  # the encoder has room again
    hopeless = spend(budget, 20, 10.0, 10.0)
    assert hopeless[-1] == ((16, 16), 4)  # as small as it gets, and no further
    again = spend(budget, 400, 0.01, 0.1)
    assert again[-1] == (BIG, 16)
    assert [work[0] for work in again] == sorted((work[0] for work in again), key=math.prod)


def test_a_budget_does_not_swing_between_two_inputs() -> None:
    """Where a step back fits by the model of costs and not in truth, it is tried ever less."""
    budget: Budget = Budget(100.0, {"points_per_side": 4})
    choices = choices_for([SquareModel(canvases=(BIG, (32, 64)))], BIG)
    large = 0
    for _ in range(2000):
        effort = budget.choose(choices)
        large += effort.place == 0
        budget.spent(effort, 150.0 if effort.place == 0 else 10.0, 1.0)
    assert 3 <= large <= 16


def test_the_first_frame_of_an_input_loads_its_graphs_and_does_not_count() -> None:
    budget: Budget = Budget(100.0, {}, has_grid=False)
    choices = choices_for([SquareModel(canvases=(BIG, (32, 64), (16, 64)))], BIG)
    places = []
    for encode_ms in (5000, 150, 5000, 80, 80):
        effort = budget.choose(choices)
        places.append(effort.place)
        budget.spent(effort, encode_ms, 1)
    assert places == [0, 0, 1, 1, 1]
    assert Budget(None, {"points_per_side": 32}).options() == {"points_per_side": 32}


def test_a_watch_keeps_its_budget_by_smaller_inputs_and_off_by_default() -> None:
    frames = [square(2 + step % 40, 10) for step in range(40)]
    large = SquareModel(canvases=(BIG, FLAT), ms_a_pixel=5.0)  # 15 s for the 4:3 input
    small = SquareModel(canvases=(LITTLE,), ms_a_pixel=5.0)  # 3.8 s
    with large.watch(frames, ["cup"], budget_ms=5000, smaller=[small]) as watch:
        results = list(watch)
    assert [result.number for result in results] == list(range(40))
    assert [result.tracks.tolist() for result in results] == [[1]] * 40
    sizes = [result.input_size for result in results]
    assert (sizes[0], sizes[-1]) == (FLAT, LITTLE)
    assert sizes == sorted(sizes, reverse=True)  # and stays: no step back would fit
    assert large.encoded + small.encoded == 40 and large.open_scenes == small.open_scenes == 0
    with large.watch(frames) as watch:
        assert {result.input_size for result in watch} == {BIG}  # what encode takes by itself
    with pytest.raises(samclip.InputError, match="budget_ms"):
        large.watch(frames, smaller=[small])
