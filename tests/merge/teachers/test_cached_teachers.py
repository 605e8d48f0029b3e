"""Teachers asked once for what is kept, and instances by the teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from counted_teachers import CountedMasks, CountedNames, counted_teachers, noise_batch
from tiny_ovsam_run import colour_labels
from torch import nn

from samclip.errors import ConfigError
from samclip.merge.teachers.cached_teachers import Teachers, instances_of
from samclip.merge.teachers.region_teacher import RegionTargets


@pytest.fixture
def teachers(tmp_path: Path) -> Teachers:
    return counted_teachers(tmp_path)


def test_what_is_kept_is_asked_once(teachers: Teachers) -> None:
    first = teachers.embeds(noise_batch("a", "b"), keep=True)
    again = teachers.embeds(noise_batch("b", "c", "a"), keep=True)
    assert CountedNames.shown == 3
    assert torch.equal(again[[2, 0]], first)
    assert torch.equal(again, teachers.embeds(noise_batch("b", "c", "a"), keep=False))
    assert CountedNames.shown == 6


def test_image_embeddings_are_kept_as_float16(teachers: Teachers) -> None:
    kept = teachers.embeddings(noise_batch("a"), keep=True)
    exact = teachers.embeddings(noise_batch("a"), keep=False)
    assert teachers.embeddings(noise_batch("a"), keep=True).dtype == torch.float32
    assert (CountedMasks.shown, CountedMasks.made) == (2, 1)
    # float16 has 11 bits
    torch.testing.assert_close(kept, exact, rtol=1e-3, atol=1e-3)


def test_each_size_has_a_mask_teacher(teachers: Teachers) -> None:
    assert teachers.masks(64) is teachers.masks(64)
    assert teachers.masks(96).image_size == 96
    assert CountedMasks.made == 2


def test_teachers_that_are_not_there(tmp_path: Path) -> None:
    nobody = Teachers(None, None, nn.Identity, tmp_path, torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"add \[teachers\.names\]"):
        nobody.embeds(noise_batch("a"), keep=False)
    with pytest.raises(ConfigError, match=r"add \[teachers\.masks\]"):
        nobody.embeddings(noise_batch("a"), keep=False)


def test_regions_take_the_nearest_name() -> None:
    labels = colour_labels()
    masks = torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, :4, :4] = masks[1, 8:, :8] = masks[2, 2:4, 10:15] = True
    boxes = torch.tensor([[0, 0, 16, 16], [0, 32, 32, 64], [40, 8, 60, 16]]).float()
    regions = RegionTargets(masks, labels.text[[3, 2, 0]], torch.ones(3))
    named = instances_of(regions, 64, labels)
    assert named.labels.tolist() == [2, 1, 0]
    assert torch.equal(named.boxes, boxes)
    nothing = RegionTargets(masks[:0], labels.text[:0], torch.ones(0))
    assert len(instances_of(nothing, 64, labels)) == 0
