"""The stitch's hidden layer, descended to on places that were remembered.

Features and targets of some thousand places of every photo stay in memory as rows, so that a step
costs two small matrix products and no look at a photo. The linear part starts from its closed
form, the hidden layer from random directions that the output does not use yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.merge.stages import HiddenConfig


@dataclass(frozen=True)
class StitchWeights:
    """What `Stitch.set_weights` takes: `weight` Fx(C+H), `bias` C+H, `project` HxC."""

    weight: Tensor
    bias: Tensor
    project: Tensor


class RememberedRows:
    """Rows of features, NxF, and targets, NxC, in half precision: `places` of every photo."""

    def __init__(self, places: int, generator: torch.Generator) -> None:
        self._places, self._generator = places, generator
        self._features: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Keep some rows of a photo's, drawn without replacement; all when there are few."""
        chosen = torch.randperm(len(features), generator=self._generator)[: self._places]
        chosen = chosen.to(features.device)
        self._features.append(features[chosen].half().cpu())
        self._targets.append(targets[chosen].half().cpu())

    def joined(self) -> tuple[Tensor, Tensor]:
        """Give all rows, NxF and NxC float16, and keep none."""
        features, targets = torch.cat(self._features), torch.cat(self._targets)
        self._features, self._targets = [], []
        return features, targets


class StitchLayer(nn.Module):
    """y = x A + relu(x B) P for standardised x: a stitch as its rows see it."""

    def __init__(
        self, scales: Tensor, weight: Tensor, bias: Tensor, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        features, outputs = weight.shape
        self._scales = scales
        drawn = torch.randn(features, hidden, generator=generator) / features**0.5
        self.linear = nn.Parameter(weight * scales[:, None])
        self.linear_bias = nn.Parameter(bias.clone())
        self.directions = nn.Parameter(drawn.to(weight))
        self.hidden_bias = nn.Parameter(torch.zeros_like(bias[:1]).expand(hidden).clone())
        self.project = nn.Parameter(torch.zeros(hidden, outputs).to(weight))

    def forward(self, features: Tensor) -> Tensor:
        """Map rows NxF to NxC."""
        x = features.float() / self._scales
        hidden = F.relu(x @ self.directions + self.hidden_bias)
        return x @ self.linear + self.linear_bias + hidden @ self.project

    @torch.no_grad()
    def weights(self) -> StitchWeights:
        """Give the layer for features as they come."""
        both = torch.cat([self.linear, self.directions], dim=1) / self._scales[:, None]
        bias = torch.cat([self.linear_bias, self.hidden_bias])
        return StitchWeights(both, bias, self.project.detach().clone())


@torch.enable_grad()
def descend(
    layer: StitchLayer,
    rows: RememberedRows,
    config: HiddenConfig,
    generator: torch.Generator,
    advance: Callable[[str], None],
) -> None:
    """Lower the squared error of `layer` on the rows by Adam, one cycle of the learning rate.

    `advance` is called after each step with the error as a share of the targets' variance.
    """
    features, targets = rows.joined()
    device = layer.linear.device
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
