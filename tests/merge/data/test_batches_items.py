import pytest
import torch
from photo_sources import ListSource

from samclip.errors import ConfigError
from samclip.merge.config.stages import Batch, Losses, MaskBatch, TrainStage
from samclip.merge.data.batches import Processes, StageInputs, StepInput

STAGE = TrainStage(
    name="both",
    steps=4,
    learning_rate=1e-3,
    train={"clip_head": 1.0},
    losses=Losses(clip=1, sam=1),
    names=Batch(batch=4, size=(64, 96, 128)),
    masks=MaskBatch(batch=2, size=64),
)
ALONE = Processes()


def inputs(processes: Processes = ALONE, seed: int = 0) -> StageInputs:
    return StageInputs(STAGE, {"names": ListSource(7), "masks": ListSource(5)}, seed, processes)


def same(one: StepInput, other: StepInput) -> bool:
    return one.streams.keys() == other.streams.keys() and all(
        batch.samples == other.streams[name].samples
        and torch.equal(batch.pixels.pixels, other.streams[name].pixels.pixels)
        for name, batch in one.streams.items()
    )


def test_a_step_has_a_batch_of_each_stream() -> None:
    given = inputs().at(3)
    assert given.step == 3
    assert {name: len(batch.samples) for name, batch in given.streams.items()} == {
        "names": 4,
        "masks": 2,
    }


def test_the_pictures_are_a_function_of_the_step() -> None:
    made = list(inputs().between(2, 5))
    assert [given.step for given in made] == [2, 3, 4]
    again = inputs()
    assert all(same(given, again.at(given.step)) for given in reversed(made))
    assert not same(made[0], inputs(seed=1).at(2))


def test_each_step_draws_one_of_the_sizes() -> None:
    sizes = [given.streams["names"].pixels.size for given in inputs().between(0, 24)]
    assert set(sizes) == {64, 96, 128}
    # Were it a fixed order, three steps on would be the same.
    assert sizes[3:] != sizes[:-3]


def test_processes_divide_a_batch_at_one_size() -> None:
    whole = inputs()
    parts = [inputs(Processes(rank, 2)) for rank in range(2)]
    for step in range(4):
        pictures = whole.at(step).streams
        divided = [part.at(step).streams for part in parts]
        for name, batch in pictures.items():
            joined = [sample for part in divided for sample in part[name].samples]
            assert joined == list(batch.samples)


def test_a_stream_needs_photos() -> None:
    with pytest.raises(ConfigError, match=r"'both' needs photos: \[data.masks\] folders"):
        StageInputs(STAGE, {"names": ListSource(7)}, 0, ALONE)
