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

WEAK = 0.05  # as a share of the features' median root mean square


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
    """y = x (A + dA) + relu(x B) P: a stitch as its rows see it; A is the closed form, `weight`.

    dA and B are learned for standardised features: `scales`, F, are their root mean squares. Weak
    features, dead channels for instance, have no part in either: Adam moves all alike, so they
    would get large weights for no gain, and rounded weights would have no digits for the others.
    """

    def __init__(
        self, scales: Tensor, weight: Tensor, bias: Tensor, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        features, outputs = weight.shape
        weak = scales < WEAK * scales.median()
        self._gains = torch.where(weak, 0, 1 / scales)[:, None]  # Fx1
        self._weight = weight
        drawn = torch.randn(features, hidden, generator=generator) / features**0.5
        self.change = nn.Parameter(torch.zeros_like(weight))
        self.directions = nn.Parameter(drawn.to(weight))
        self.bias = nn.Parameter(torch.cat([bias, bias.new_zeros(hidden)]))
        self.project = nn.Parameter(weight.new_zeros(hidden, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Map rows NxF to NxC."""
        seen = features.float() @ self._joined() + self.bias
        linear, hidden = torch.split(seen, list(self.project.shape)[::-1], dim=1)
        out: Tensor = linear + F.relu(hidden) @ self.project
        return out

    @torch.no_grad()
    def weights(self) -> StitchWeights:
        """Give the layer's weights."""
        return StitchWeights(self._joined(), self.bias.clone(), self.project.clone())

    def _joined(self) -> Tensor:
        """Join the linear part and the hidden layer: Fx(C+H)."""
        linear = self._weight + self.change * self._gains
        return torch.cat([linear, self.directions * self._gains], dim=1)


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
