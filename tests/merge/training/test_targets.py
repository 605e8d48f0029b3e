import itertools
from pathlib import Path

import pytest
import torch
from tiny_run import ColourNames, ModelMasks
from torch import Tensor, nn

from samclip.errors import ConfigError
from samclip.merge.config.stages import Batch, Losses, MaskBatch, TrainStage
from samclip.merge.data.batches import Sample, ViewBatch
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.data.views import View
from samclip.merge.training.targets import Teachers, mask_targets, name_targets, prompt_seed

CPU = torch.device("cpu")


class Counted(ColourNames):
    """Counts the pictures that it names."""

    shown = 0

    def embed(self, batch: PixelBatch) -> Tensor:
        Counted.shown += len(batch)
        return super().embed(batch)


class Seen(ModelMasks):
    """Counts the pictures that it encodes, and the teachers that are made."""

    made = shown = 0

    def __init__(self, size: int) -> None:
        Seen.made += 1
        super().__init__(size)

    def encode(self, batch: PixelBatch) -> Tensor:
        Seen.shown += len(batch)
        return super().encode(batch)


@pytest.fixture
def teachers(tmp_path: Path) -> Teachers:
    Counted.shown = Seen.made = Seen.shown = 0
    return Teachers(Counted(), Seen, nn.Identity, tmp_path, CPU)


def batch(*photos: str, size: int = 64) -> ViewBatch:
    """Pictures of noise, the same for the same photo."""
    pixels = [
        torch.rand(3, size, size, generator=torch.Generator().manual_seed(ord(p))) for p in photos
    ]
    samples = tuple(Sample(photo, View((64, 64), (0, 0, 64, 64), size)) for photo in photos)
    return ViewBatch(samples, PixelBatch.of([p * 255 for p in pixels]))


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


def test_what_is_kept_is_asked_once(teachers: Teachers) -> None:
    first = teachers.embeds(batch("a", "b"), keep=True)
    again = teachers.embeds(batch("b", "c", "a"), keep=True)
    assert Counted.shown == 3
    assert torch.equal(again[[2, 0]], first)
    assert torch.equal(again, teachers.embeds(batch("b", "c", "a"), keep=False))
    assert Counted.shown == 6


def test_image_embeddings_are_kept_as_float16(teachers: Teachers) -> None:
    kept = teachers.embeddings(batch("a"), keep=True)
    exact = teachers.embeddings(batch("a"), keep=False)
    assert teachers.embeddings(batch("a"), keep=True).dtype == torch.float32
    assert (Seen.shown, Seen.made) == (2, 1)
    # float16 has 11 bits
    torch.testing.assert_close(kept, exact, rtol=1e-3, atol=1e-3)


def test_each_size_has_a_mask_teacher(teachers: Teachers) -> None:
    assert teachers.masks(64) is teachers.masks(64)
    assert teachers.masks(96).image_size == 96
    assert Seen.made == 2


def test_only_what_the_losses_want_is_asked(teachers: Teachers) -> None:
    one, names, masks = stage(Losses(embed=1))
    nothing = name_targets(teachers, batch("a", "b"), one, names)
    assert nothing.embeds is None
    assert nothing.regions is None
    asked = mask_targets(teachers, batch("a", "b"), one, masks, [1, 2])
    assert asked.embeddings is not None
    assert asked.prompted is None
    assert (Counted.shown, Seen.shown) == (0, 2)
    one, names, masks = stage(Losses(sam=1, region=1))  # and no regions in the batches
    asked = mask_targets(teachers, batch("a", "b"), one, masks, [1, 2])
    assert asked.embeddings is None
    assert asked.regions is None
    assert asked.prompted is not None
    assert [len(target.prompts) for target in asked.prompted] == [3, 3]


def test_prompts_come_from_the_pictures_seed(teachers: Teachers) -> None:
    one, _, masks = stage(Losses(sam=1))

    def coords(*seeds: int) -> list[Tensor]:
        found = mask_targets(teachers, batch("a", "a"), one, masks, seeds).prompted
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


def test_teachers_that_are_not_there(tmp_path: Path) -> None:
    nobody = Teachers(None, None, nn.Identity, tmp_path, CPU)
    with pytest.raises(ConfigError, match=r"add \[teachers\.names\]"):
        nobody.embeds(batch("a"), keep=False)
    with pytest.raises(ConfigError, match=r"add \[teachers\.masks\]"):
        nobody.embeddings(batch("a"), keep=False)
