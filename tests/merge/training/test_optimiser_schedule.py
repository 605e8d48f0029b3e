import itertools
import math
from typing import Any

import pytest

from samclip.merge.config.stages import Batch, Losses, MaskBatch, TrainStage
from samclip.merge.training.optimiser import learning_rate, schedule_length, steps_to_run


def stage(**changes: Any) -> TrainStage:
    given = {
        "name": "one",
        "learning_rate": 2e-3,
        "train": {"clip_head": 1.0},
        "losses": Losses(clip=1),
        "names": Batch(batch=8, size=64),
        **changes,
    }
    return TrainStage(**given)


def test_steps_are_taken_as_they_are() -> None:
    assert schedule_length(stage(steps=7), 1000) == 7


@pytest.mark.parametrize(
    ("epochs", "photos", "steps"), [(1, 16, 2), (1, 17, 3), (2.5, 16, 5), (0.01, 16, 1)]
)
def test_an_epoch_is_every_photo_once(epochs: float, photos: int, steps: int) -> None:
    assert schedule_length(stage(epochs=epochs), photos) == steps


def test_epochs_count_the_masks_stream_where_there_is_no_other() -> None:
    masks = stage(epochs=1, names=None, masks=MaskBatch(batch=4, size=64), losses=Losses(sam=1))
    assert schedule_length(masks, 16) == 4


def test_a_stage_may_stop_before_its_schedule_ends() -> None:
    early = stage(epochs=20, stop=0.8)
    assert (schedule_length(early, 80), steps_to_run(early, 80)) == (200, 160)  # 16 of 20 epochs
    assert steps_to_run(stage(steps=1, stop=0.1), 80) == 1


def test_the_rate_rises_to_its_full_height_and_falls_along_half_a_cosine() -> None:
    cosine = stage(steps=100, warmup=0.1)
    rates = [learning_rate(cosine, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([2e-4 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(2e-3)
    assert rates[55] == pytest.approx(1e-3)  # in the middle of what is left
    assert rates[99] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_rate_falls_to_the_floor() -> None:
    floored = stage(steps=100, warmup=0.0, floor=0.25)
    assert learning_rate(floored, 0, 100) == pytest.approx(2e-3)
    assert learning_rate(floored, 50, 100) == pytest.approx(2e-3 * (0.25 + 0.75 / 2))
    assert learning_rate(floored, 99, 100) == pytest.approx(0.5e-3, rel=1e-2)


def test_a_constant_rate_stays_after_its_warm_up() -> None:
    constant = stage(steps=10, warmup=0.2, schedule="constant")
    rates = [learning_rate(constant, step, 10) for step in range(10)]
    assert rates == pytest.approx([1e-3, *[2e-3] * 9])


def test_a_stage_of_one_step_has_a_rate() -> None:
    assert learning_rate(stage(steps=1), 0, 1) == pytest.approx(2e-3)
