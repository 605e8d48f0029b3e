import dataclasses

import pytest
from photo_sources import ListSource

from samclip.errors import InputError
from samclip.merge.data.photo_sources import PickedSource
from samclip.merge.data.sampler import Draw, Sampler, Sampling

SAMPLING = Sampling(seed=0, stage="head", stream="names", batch=4)


def indices(sampler: Sampler, steps: range) -> list[int]:
    return [draw.index for step in steps for draw in sampler.draws(step)]


def test_every_photo_comes_once_per_epoch_though_batches_cross_epochs() -> None:
    drawn = indices(Sampler(ListSource(10), SAMPLING), range(25))  # ten epochs
    epochs = [drawn[start : start + 10] for start in range(0, 100, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_draws_are_a_pure_function_of_their_step() -> None:
    first, second = (Sampler(ListSource(10), SAMPLING) for _ in range(2))
    forwards = [first.draws(step) for step in range(20)]
    assert [second.draws(step) for step in reversed(range(20))] == forwards[::-1]


@pytest.mark.parametrize("change", [{"seed": 1}, {"stage": "joint"}, {"stream": "masks"}])
def test_seed_stage_and_stream_have_draws_of_their_own(change: dict[str, object]) -> None:
    other = dataclasses.replace(SAMPLING, **change)
    drawn = [
        [draw for step in range(5) for draw in Sampler(ListSource(20), s).draws(step)]
        for s in (SAMPLING, other)
    ]
    assert [d.index for d in drawn[0]] != [d.index for d in drawn[1]]
    assert not {d.view_seed for d in drawn[0]} & {d.view_seed for d in drawn[1]}


def test_processes_divide_the_global_batch() -> None:
    source, whole = ListSource(10), Sampler(ListSource(10), SAMPLING)
    parts = [
        Sampler(source, dataclasses.replace(SAMPLING, rank=rank, world=2)) for rank in range(2)
    ]
    for step in range(10):
        together = tuple(draw for part in parts for draw in part.draws(step))
        assert together == whole.draws(step)


def test_draws_do_not_depend_on_the_order_of_files() -> None:
    source = ListSource(10)
    backwards = PickedSource(source, range(9, -1, -1))
    one, two = Sampler(source, SAMPLING), Sampler(backwards, SAMPLING)
    for step in range(5):
        mirrored = tuple(Draw(9 - d.index, d.view_seed) for d in two.draws(step))
        assert mirrored == one.draws(step)


def test_new_views_in_every_epoch() -> None:
    sampler = Sampler(ListSource(4), SAMPLING)
    seeds = [draw.view_seed for step in range(50) for draw in sampler.draws(step)]
    assert len(set(seeds)) == 200


def test_fixed_views_come_again_and_are_those_listed() -> None:
    sampling = dataclasses.replace(SAMPLING, fixed_views=3)
    sampler = Sampler(ListSource(4), sampling)
    drawn = [draw for step in range(12) for draw in sampler.draws(step)]
    listed = {draw for index in range(4) for draw in sampler.fixed_draws(index)}
    assert set(drawn[:12]) == set(drawn) == listed
    assert len(listed) == 12
    later = Sampler(ListSource(4), dataclasses.replace(sampling, stage="joint", batch=2))
    assert {d for step in range(6) for d in later.draws(step)} == listed  # in other stages too


def test_new_views_cannot_be_listed() -> None:
    with pytest.raises(InputError, match="Set fixed_views"):
        Sampler(ListSource(4), SAMPLING).fixed_draws(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "a batch of 0 photos"),
        ({"batch": 5, "world": 2}, "5 photos for 2 processes"),
        ({"rank": 1}, "process 1 of 1"),
        ({"fixed_views": 0}, "fixed_views is 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SAMPLING, **change)


def test_no_photos_are_refused() -> None:
    with pytest.raises(InputError, match="'names' has no photos"):
        Sampler(ListSource(0), SAMPLING)
