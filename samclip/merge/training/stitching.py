"""The fit of a stitch: its linear part in closed form, then its hidden layer on the residual.

The linear map from a frozen recogniser's features to the input of the teacher's TinyViT at stage 1
has a least-squares solution (Bansal et al., arXiv 2106.07682; Csiszarik et al., arXiv 2110.14633,
section 3), so it takes no gradient steps: one pass over the photos collects the sums.

The hidden layer is fitted by gradient descent on some thousand positions of every photo. Their
features and targets stay in memory as rows, so that a step costs two small matrix products and no
pass over a photo. The linear part starts from its closed form, the hidden layer from random
directions that the output does not use yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from samclip.errors import ConfigError, TrainingError
from samclip.export.checkpoints.metadata import SAM_MEAN, SAM_STD
from samclip.export.models.stitched_encoder import StitchedEncoder, stitch_target
from samclip.export.models.tiny_vit import TinyVit
from samclip.merge.config.stages import HiddenConfig, StitchStage
from samclip.merge.data.batches import ViewStream
from samclip.merge.data.photo_sources import PhotoSource
from samclip.merge.data.sampler import Sampler, Sampling
from samclip.merge.data.seeds import derive_seed
from samclip.merge.students.base import Learner
from samclip.merge.students.merged_student import MergedStudent

WEAK = 0.05  # root mean square of a weak feature, as a share of the features' median


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
    the teacher is not a TinyViT.
    """
    encoder = student.model.image_encoder if isinstance(student, MergedStudent) else None
    if (
        not isinstance(student, MergedStudent)
        or not isinstance(encoder, StitchedEncoder)
        or not isinstance(teacher, TinyVit)
    ):
        raise ConfigError(
            f"stage {stage.name!r} stitches a recogniser to MobileSAM: it takes a student of model "
            "type lite2 and MobileSAM as the teacher of masks"
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, stage.name, "places"))
    rows = SampledRows(stage.hidden.places if stage.hidden else 0, generator)
    equations: NormalEquations | None = None
    for features, targets in _features_and_targets(stage, student, encoder, teacher, source, seed):
        if equations is None:
            equations = NormalEquations(features.shape[1], targets.shape[1], features.device)
        equations.add(features, targets)
        rows.add(features, targets)
        advance(f"{equations.rows} places")
    if equations is None:
        raise TrainingError(f"stage {stage.name!r} was given no photos; set photos above 0")
    stitch = encoder.stitch
    weight, bias = equations.solve(stage.ridge)
    layer = StitchLayer(
        scales=equations.scales(),
        weight=weight,
        bias=bias,
        hidden=stitch.hidden,
        generator=generator,
    )
    if stage.hidden is not None:
        fit_hidden_layer(layer, rows, stage.hidden, generator, advance)
    found = layer.weights()
    stitch.set_weights(found.weight, found.bias, found.project)


def _features_and_targets(
    stage: StitchStage,
    student: MergedStudent,
    encoder: StitchedEncoder,
    teacher: TinyVit,
    source: PhotoSource,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the features and targets, NxF and NxC, at the valid positions of each view."""
    sampler = Sampler(source, Sampling(seed=seed, stage=stage.name, stream="masks", batch=1))
    stream = ViewStream(source, sampler, stage.view, stage.size)
    for step in range(stage.photos):
        batch = stream.batch(step).pixels.to(student.device)
        maps = encoder.backbone(batch.normalised(student.mean, student.std))
        design = encoder.stitch.design(maps)  # 1xFxGxG
        target = stitch_target(teacher, batch.normalised(SAM_MEAN, SAM_STD))  # 1xCxGxG
        valid = batch.token_mask(design.shape[-1])[0] > 0  # GxG
        yield design[0][:, valid].T, target[0][:, valid].T


class NormalEquations:
    """Sums for the least-squares map, with a bias, from F features to C targets; float64."""

    def __init__(self, features: int, targets: int, device: torch.device | None = None) -> None:
        double = torch.float64
        self.gram = torch.zeros(features + 1, features + 1, dtype=double, device=device)
        self.cross = torch.zeros(features + 1, targets, dtype=double, device=device)
        self.rows = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add rows, NxF and NxC. Their products are summed in the rows' own precision."""
        x = torch.cat([features, features.new_ones(len(features), 1)], dim=1)  # Nx(F+1)
        self.gram += (x.T @ x).double()
        self.cross += (x.T @ targets).double()
        self.rows += len(features)

    def scales(self) -> Tensor:
        """Return the root mean square of every feature, F in float32."""
        squares = self.gram.diagonal()[:-1] / max(1, self.rows)
        return squares.sqrt().float()

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return the weight, FxC, and the bias, C, in float32.

        `ridge` times the mean of the diagonal is added to it, except for the bias, so that features
        that hardly vary get small weights. Raises TrainingError when there is no solution.
        """
        if not self.rows:
            raise TrainingError("a stitch cannot be fitted to no photos; set photos above 0")
        added = ridge * self.gram.diagonal().mean().expand(len(self.gram)).clone()
        added[-1] = 0
        try:
            solution = torch.linalg.solve(self.gram + torch.diag(added), self.cross)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise TrainingError(
                f"the stitch's equations have no unique solution ({error}); use more photos or a "
                "larger ridge"
            ) from error
        return solution[:-1].float(), solution[-1].float()


class SampledRows:
    """Rows of features, NxF, and targets, NxC, in half precision: `places` of every photo."""

    def __init__(self, places: int, generator: Generator) -> None:
        self._places = places
        self._generator = generator
        self._features: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Keep some of a photo's rows, drawn without replacement; all when there are few."""
        chosen = torch.randperm(len(features), generator=self._generator)[: self._places]
        chosen = chosen.to(features.device)
        self._features.append(features[chosen].half().cpu())
        self._targets.append(targets[chosen].half().cpu())

    def take(self) -> tuple[Tensor, Tensor]:
        """Return all rows, NxF and NxC float16, and drop them here."""
        features, targets = torch.cat(self._features), torch.cat(self._targets)
        self._features, self._targets = [], []
        return features, targets


@dataclass(frozen=True)
class StitchWeights:
    """The arguments of `Stitch.set_weights`: `weight` Fx(C+H), `bias` C+H, `project` HxC."""

    weight: Tensor
    bias: Tensor
    project: Tensor


class StitchLayer(nn.Module):
    """A stitch applied to rows, y = x (A + dA) + relu(x B) P; A is the closed form, `weight`.

    dA and B are learned for standardised features: `scales`, F, are their root mean squares. Weak
    features, such as dead channels, take part in neither. Adam moves all weights at the same rate,
    so weak features would get large weights for no gain, and rounding these weights would leave no
    precision for the others.
    """

    def __init__(
        self, scales: Tensor, weight: Tensor, bias: Tensor, hidden: int, generator: Generator
    ) -> None:
        super().__init__()
        features, outputs = weight.shape
        weak = scales < WEAK * scales.median()
        self._gains = torch.where(weak, 0, 1 / scales)[:, None]  # Fx1
        self._weight = weight
        directions = torch.randn(features, hidden, generator=generator) / features**0.5
        self.change = nn.Parameter(torch.zeros_like(weight))
        self.directions = nn.Parameter(directions.to(weight))
        self.bias = nn.Parameter(torch.cat([bias, bias.new_zeros(hidden)]))
        self.project = nn.Parameter(weight.new_zeros(hidden, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Map rows NxF to NxC."""
        both = features.float() @ self._linear_and_hidden() + self.bias
        linear, hidden = torch.split(both, list(self.project.shape)[::-1], dim=1)
        out: Tensor = linear + F.relu(hidden) @ self.project
        return out

    @torch.no_grad()
    def weights(self) -> StitchWeights:
        """Return the layer's weights for features that are not standardised."""
        return StitchWeights(self._linear_and_hidden(), self.bias.clone(), self.project.clone())

    def _linear_and_hidden(self) -> Tensor:
        """Concatenate the weights of the linear part and the hidden layer: Fx(C+H)."""
        linear = self._weight + self.change * self._gains
        return torch.cat([linear, self.directions * self._gains], dim=1)


@torch.enable_grad()
def fit_hidden_layer(
    layer: StitchLayer,
    rows: SampledRows,
    config: HiddenConfig,
    generator: Generator,
    advance: Callable[[str], None],
) -> None:
    """Reduce the squared error of `layer` on the rows by Adam, in one cycle of the learning rate.

    `advance` is called after each step with the error as a share of the targets' variance.
    """
    features, targets = rows.take()
    device = layer.bias.device
    variance = float(targets.float().var(dim=0).mean())
    adam = torch.optim.Adam(layer.parameters(), lr=config.learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adam, config.learning_rate, total_steps=config.steps, pct_start=config.warmup
    )
    for _ in range(config.steps):
        chosen = torch.randint(len(features), (config.batch,), generator=generator).sort().values
        x, wanted = features[chosen].to(device), targets[chosen].to(device).float()
        error = F.mse_loss(layer(x), wanted) / variance
        adam.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        adam.step()
        cycle.step()
        advance(f"error {error.item():.4f}")
