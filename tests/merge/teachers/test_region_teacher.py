from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fixed_mask_teacher import EMBEDDINGS, SIDE, FixedMaskTeacher
from torch import Tensor

from samclip.errors import InputError
from samclip.merge.data.pixels import PixelBatch
from samclip.merge.teachers.base import ClassTeacher
from samclip.merge.teachers.output_cache import OutputCache
from samclip.merge.teachers.region_teacher import (
    RegionOptions,
    RegionTargets,
    RegionTeacher,
    crop_box,
    mask_edges,
)

OPTIONS = RegionOptions(points_per_side=2)
LEFT, RIGHT = (2, 4, 6, 8, 0.9), (8, 4, 16, 12, 0.95)


class MeanColour:
    """Embeds a picture by its mean colour."""

    fingerprint, embed_dim = "mean colour", 3

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []

    def embed(self, batch: PixelBatch) -> Tensor:
        self.sizes += batch.sizes.tolist()
        means = [batch.picture(index).mean(dim=(1, 2)) for index in range(len(batch))]
        return F.normalize(torch.stack(means), dim=1)


class TwoClasses(MeanColour):
    """Knows red from blue: logits are mean colours, and the classes' places are axes."""

    embed_dim = 2

    def class_logits(self, batch: PixelBatch) -> Tensor:
        means = [batch.picture(index).mean(dim=(1, 2)) for index in range(len(batch))]
        return torch.stack(means)[:, [0, 2]] / 100

    def class_probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def embed_classes(self, probabilities: Tensor) -> Tensor:
        return F.normalize(probabilities, dim=1)

    def embed(self, batch: PixelBatch) -> Tensor:
        raise AssertionError("the classes tell more")


def halves() -> PixelBatch:
    """Red on the left, blue on the right, 48 of 64 rows."""
    image = torch.zeros(3, 48, SIDE)
    image[0, :, :32], image[2, :, 32:] = 200.0, 100.0
    return PixelBatch.of([image], SIDE)


def targets_of(names: MeanColour, *margins: float) -> RegionTargets:
    teacher = RegionTeacher(FixedMaskTeacher(LEFT, RIGHT), names, OPTIONS, margins or (1.0,))
    return teacher.targets(halves(), EMBEDDINGS)


def test_each_region_is_named_by_its_crop() -> None:
    names = MeanColour()
    targets = targets_of(names)
    assert torch.allclose(targets.targets, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert names.sizes == [[32, 32], [16, 16]]  # the box from 8, 4 to 16, 12, times four
    assert torch.allclose(targets.weights, torch.tensor([0.95, 0.9]))
    assert targets.masks.shape == (2, 16, 16)
    assert targets.probabilities is None


def test_crops_at_several_margins_are_averaged_and_their_agreement_weighs() -> None:
    names = MeanColour()
    targets = targets_of(names, 1.0, 2.0)
    assert names.sizes == [[32, 32], [48, 48], [16, 16], [32, 32]]
    blue = F.normalize(torch.tensor([200 / 3, 0, 200 / 3]), dim=0)  # a third of 48 columns is red
    expected = (torch.tensor([0.0, 0, 1]) + blue) / 2
    assert torch.allclose(targets.targets[0], F.normalize(expected, dim=0), atol=1e-6)  # float32
    assert abs(float(targets.weights[0]) - 0.95 * float(expected.norm())) < 1e-6
    assert abs(float(targets.weights[1]) - 0.9) < 1e-6  # the left one's crops are all red


def test_a_class_teacher_averages_probabilities() -> None:
    names = TwoClasses()
    assert isinstance(names, ClassTeacher)
    assert not isinstance(MeanColour(), ClassTeacher)
    targets = targets_of(names, 1.0, 2.0)
    assert targets.probabilities is not None
    near = torch.tensor([0.0, 1.0]).softmax(0)
    wide = torch.tensor([200 / 3, 200 / 3]).div(100).softmax(0)
    assert torch.allclose(targets.probabilities[0], (near + wide) / 2, atol=1e-6)  # float32
    assert torch.allclose(targets.targets, F.normalize(targets.probabilities, dim=1))


def test_crops_go_to_the_teacher_in_small_batches() -> None:
    whole = targets_of(MeanColour(), 1.0, 1.5, 2.0)
    margins = (1.0, 1.5, 2.0)
    few = RegionTeacher(
        FixedMaskTeacher(LEFT, RIGHT), MeanColour(), OPTIONS, margins, crops_at_once=2
    )
    assert torch.equal(few.targets(halves(), EMBEDDINGS).targets, whole.targets)


def test_a_picture_without_regions_has_none() -> None:
    targets = RegionTeacher(FixedMaskTeacher(), MeanColour(), OPTIONS).targets(halves())
    assert len(targets) == 0
    assert targets.targets.shape == (0, 3)
    assert targets.masks.shape == (0, 16, 16)


@pytest.mark.parametrize("names", [MeanColour(), TwoClasses()])
@pytest.mark.parametrize("boxes", [(LEFT, RIGHT), ()])
def test_targets_can_be_kept(
    tmp_path: Path, names: MeanColour, boxes: tuple[tuple[int, int, int, int, float], ...]
) -> None:
    targets = RegionTeacher(FixedMaskTeacher(*boxes), names, OPTIONS).targets(halves(), EMBEDDINGS)
    kept = OutputCache(tmp_path).put("ab" * 32, targets.tensors())
    back = RegionTargets.from_tensors(kept)
    assert torch.equal(back.masks, targets.masks)
    assert torch.equal(back.targets, targets.targets)
    assert torch.equal(back.weights, targets.weights)
    assert (back.probabilities is None) == (targets.probabilities is None)
    assert kept["masks"].numel() == len(targets) * 16 * 2  # a bit for each pixel


def test_fingerprints_distinguish_options() -> None:
    teachers = [
        RegionTeacher(FixedMaskTeacher(), MeanColour(), OPTIONS),
        RegionTeacher(FixedMaskTeacher(), MeanColour(), RegionOptions(points_per_side=3)),
        RegionTeacher(FixedMaskTeacher(), MeanColour(), OPTIONS, margins=(1.0,)),
    ]
    assert len({teacher.fingerprint for teacher in teachers}) == 3
    again = RegionTeacher(FixedMaskTeacher(), MeanColour(), OPTIONS, crops_at_once=3)
    assert again.fingerprint == teachers[0].fingerprint  # what costs only time does not count


@pytest.mark.parametrize("margins", [(), (0.9, 1.5)])
def test_margins_out_of_range_are_refused(margins: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="margins are"):
        RegionTeacher(FixedMaskTeacher(), MeanColour(), OPTIONS, margins)


def test_mask_edges() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2, 3] = mask[5, 6] = True
    assert mask_edges(mask) == (3, 2, 7, 6)


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((20, 30, 40, 50), 1.0, (20, 30, 40, 50)),
        ((20, 30, 40, 50), 1.5, (15, 25, 45, 55)),
        ((0, 0, 20, 20), 1.5, (0, 0, 25, 25)),  # cut at the picture's edge
        ((80, 80, 100, 90), 2.0, (70, 70, 100, 100)),  # 40 x 20, widened to 40 x 30, cut
        ((50, 0, 51, 100), 1.0, (13, 0, 88, 100)),  # a pole: three quarters as wide as high
        ((99.5, 99.5, 100, 100), 1.0, (99, 99, 100, 100)),
    ],
)
def test_crop_box(
    box: tuple[float, ...], margin: float, expected: tuple[int, int, int, int]
) -> None:
    assert crop_box(box, margin, (100, 100)) == expected
