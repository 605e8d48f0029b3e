"""The stage that fits a stitch in closed form: ridge regression over many photos, one pass each.

The linear map from a frozen recogniser's features to what the teacher's TinyViT feeds to its third
stage has a least-squares solution (Bansal et al., arXiv 2106.07682; Csiszarik et al., arXiv
2110.14633, section 3), so no gradient step is spent on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from samclip.errors import ConfigError, TrainingError
from samclip.export.metadata import SAM_MEAN, SAM_STD
from samclip.export.models.stitched_encoder import StitchedEncoder, stitch_target
from samclip.export.models.tiny_vit import TinyVit
from samclip.merge.sampler import Sampler, Sampling
from samclip.merge.sources import PhotoSource
from samclip.merge.stages import StitchStage
from samclip.merge.stream import ViewStream
from samclip.merge.student import Student


class NormalEquations:
    """Sums for the least-squares map, with a bias, from F features to C targets; float64."""

    def __init__(self, features: int, targets: int, device: torch.device | None = None) -> None:
        double = torch.float64
        self.gram = torch.zeros(features + 1, features + 1, dtype=double, device=device)
        self.cross = torch.zeros(features + 1, targets, dtype=double, device=device)
        self.rows = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows: NxF and NxC."""
        x = torch.cat([features, features.new_ones(len(features), 1)], dim=1).double()  # Nx(F+1)
        self.gram += x.T @ x
        self.cross += x.T @ targets.double()
        self.rows += len(features)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return the weight, FxC, and the bias, C, in float32.

        `ridge` times the mean of the diagonal is added to it, but for the bias, so that features
        that hardly vary get small weights. Raises TrainingError when there is no solution.
        """
        if not self.rows:
            raise TrainingError("a stitch cannot be fitted to no photos")
        added = ridge * self.gram.diagonal().mean().expand(len(self.gram)).clone()
        added[-1] = 0
        try:
            solution = torch.linalg.solve(self.gram + torch.diag(added), self.cross)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise TrainingError(
                f"the stitch's equations have no one solution ({error}); use more photos or a "
                "larger ridge"
            ) from error
        return solution[:-1].float(), solution[-1].float()


@torch.no_grad()
def fit_stitch(
    stage: StitchStage,
    student: Student,
    teacher: nn.Module,
    source: PhotoSource,
    seed: int,
    advance: Callable[[str], None],
) -> None:
    """Fit the student's stitch to `teacher`, MobileSAM's encoder, and write it into the student.

    `advance` is called after each photo. In a run of several processes each computes the same.
    Raises ConfigError when the student has no stitch, or the teacher is no TinyViT.
    """
    encoder = student.model.image_encoder
    if not isinstance(encoder, StitchedEncoder) or not isinstance(teacher, TinyVit):
        raise ConfigError(
            f"stage {stage.name!r} stitches a recogniser to MobileSAM: it takes a student of model "
            "type lite2 and MobileSAM as the teacher of masks"
        )
    sampler = Sampler(source, Sampling(seed, stage.name, "masks", 1))
    stream = ViewStream(source, sampler, stage.view.at(stage.size))
    equations: NormalEquations | None = None
    for step in range(stage.photos):
        batch = stream.batch(step).pixels.to(student.device)
        maps = encoder.backbone(batch.normalised(student.mean, student.std))
        design = encoder.stitch.design(maps)  # 1, F, G, G
        target = stitch_target(teacher, batch.normalised(SAM_MEAN, SAM_STD))  # 1, C, G, G
        valid = batch.token_mask(design.shape[-1])[0] > 0  # G, G
        if equations is None:
            equations = NormalEquations(design.shape[1], target.shape[1], design.device)
        equations.add(design[0][:, valid].T, target[0][:, valid].T)
        advance(f"{equations.rows} places")
    if equations is not None:
        encoder.stitch.set_linear(*equations.solve(stage.ridge))
