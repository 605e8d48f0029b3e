"""The stage that fits a stitch: in closed form, then with a hidden layer on what that left.

The linear map from a frozen recogniser's features to what the teacher's TinyViT feeds to its
stage 1 has a least-squares solution (Bansal et al., arXiv 2106.07682; Csiszarik et al., arXiv
2110.14633, section 3), so no gradient step is spent on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samclip.errors import ConfigError, TrainingError
from samclip.export.checkpoints.metadata import SAM_MEAN, SAM_STD
from samclip.export.models.stitched_encoder import StitchedEncoder, stitch_target
from samclip.export.models.tiny_vit import TinyVit
from samclip.merge.learner import Learner
from samclip.merge.normal_equations import NormalEquations
from samclip.merge.sampler import Sampler, Sampling
from samclip.merge.seeds import derive_seed
from samclip.merge.sources import PhotoSource
from samclip.merge.stages import StitchStage
from samclip.merge.stitch_layer import RememberedRows, StitchLayer, descend
from samclip.merge.stream import ViewStream
from samclip.merge.student import Student


@torch.no_grad()
def fit_stitch(
    stage: StitchStage,
    student: Learner,
    teacher: nn.Module,
    source: PhotoSource,
    seed: int,
    advance: Callable[[str], None],
) -> None:
    """Fit the student's stitch to `teacher`, MobileSAM's encoder, and write it into the student.

    `advance` is called after each photo, and after each step on the hidden layer. In a run of
    several processes each computes the same. Raises ConfigError when the student has no stitch, or
    the teacher is no TinyViT.
    """
    encoder = student.model.image_encoder if isinstance(student, Student) else None
    if (
        not isinstance(student, Student)
        or not isinstance(encoder, StitchedEncoder)
        or not isinstance(teacher, TinyVit)
    ):
        raise ConfigError(
            f"stage {stage.name!r} stitches a recogniser to MobileSAM: it takes a student of model "
            "type lite2 and MobileSAM as the teacher of masks"
        )
    drawn = torch.Generator().manual_seed(derive_seed(seed, stage.name, "places"))
    remembered = RememberedRows(stage.hidden.places if stage.hidden else 0, drawn)
    equations: NormalEquations | None = None
    for features, targets in _Views(stage, student, encoder, teacher, source, seed):
        if equations is None:
            equations = NormalEquations(features.shape[1], targets.shape[1], features.device)
        equations.add(features, targets)
        remembered.add(features, targets)
        advance(f"{equations.rows} places")
    if equations is None:
        raise TrainingError(f"stage {stage.name!r} was given no photos; set photos above 0")
    stitch, (weight, bias) = encoder.stitch, equations.solve(stage.ridge)
    layer = StitchLayer(equations.scales(), weight, bias, stitch.hidden, drawn)
    if stage.hidden is not None:
        descend(layer, remembered, stage.hidden, drawn, advance)
    found = layer.weights()
    stitch.set_weights(found.weight, found.bias, found.project)


@dataclass(frozen=True)
class _Views:
    """The features and targets, NxF and NxC, at the valid places of the stage's views."""

    stage: StitchStage
    student: Student
    encoder: StitchedEncoder
    teacher: TinyVit
    source: PhotoSource
    seed: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        stage, student = self.stage, self.student
        sampler = Sampler(self.source, Sampling(self.seed, stage.name, "masks", 1))
        stream = ViewStream(self.source, sampler, stage.view.at(stage.size))
        for step in range(stage.photos):
            batch = stream.batch(step).pixels.to(student.device)
            maps = self.encoder.backbone(batch.normalised(student.mean, student.std))
            design = self.encoder.stitch.design(maps)  # 1, F, G, G
            target = stitch_target(self.teacher, batch.normalised(SAM_MEAN, SAM_STD))  # 1, C, G, G
            valid = batch.token_mask(design.shape[-1])[0] > 0  # G, G
            yield design[0][:, valid].T, target[0][:, valid].T
