import itertools
from pathlib import Path

import pytest
import torch
from counted_teachers import CountedMasks, CountedNames, counted_teachers, noise_batch
from torch import Tensor

from samclip.merge.config.stages import Batch, Losses, MaskBatch, TrainStage
from samclip.merge.teachers.cached_teachers import Teachers
from samclip.merge.training.targets import mask_targets, name_targets, prompt_seed


@pytest.fixture
def teachers(tmp_path: Path) -> Teachers:
    return counted_teachers(tmp_path)


def stage(losses: Losses, **changes: int) -> tuple[TrainStage, Batch, MaskBatch]:
    names = Batch(batch=2, size=64, **changes)
    masks = MaskBatch(batch=2, size=64, prompts=3, **changes)
    made = TrainStage(
        name="one",
        steps=1,
        learning_rate=1e-3,
        train={"clip_head": 1.0},
        losses=losses,
        names=names,
        masks=masks,
    )
    return made, names, masks


def test_only_what_the_losses_want_is_asked(teachers: Teachers) -> None:
    one, names, masks = stage(Losses(embed=1))
    nothing = name_targets(teachers, noise_batch("a", "b"), one, names)
    assert nothing.embeds is None
    assert nothing.regions is None
    asked = mask_targets(teachers, noise_batch("a", "b"), one, masks, [1, 2])
    assert asked.embeddings is not None
    assert asked.prompted is None
    assert (CountedNames.shown, CountedMasks.shown) == (0, 2)
    one, names, masks = stage(Losses(sam=1, region=1))  # and no regions in the batches
    asked = mask_targets(teachers, noise_batch("a", "b"), one, masks, [1, 2])
    assert asked.embeddings is None
    assert asked.regions is None
    assert asked.prompted is not None
    assert [len(target.prompts) for target in asked.prompted] == [3, 3]


def test_prompts_come_from_the_pictures_seed(teachers: Teachers) -> None:
    one, _, masks = stage(Losses(sam=1))

    def coords(*seeds: int) -> list[Tensor]:
        found = mask_targets(teachers, noise_batch("a", "a"), one, masks, seeds).prompted
        assert found is not None
        return [target.prompts.coords for target in found]

    first, second = coords(1, 2)
    assert not torch.equal(first, second)
    assert torch.equal(coords(2, 1)[1], first)


def test_seeds_of_prompts_differ() -> None:
    places = itertools.product("ab", (0, 1), (0, 1))
    seeds = [prompt_seed(0, name, step, place) for name, step, place in places]
    assert len(set(seeds)) == 8
    assert prompt_seed(0, "a", 1, 1) == seeds[3]
