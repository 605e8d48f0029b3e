"""Ridge regression over many photos, one pass each: the sums, and their solution."""

from __future__ import annotations

import torch
from torch import Tensor

from samclip.errors import TrainingError


class NormalEquations:
    """Sums for the least-squares map, with a bias, from F features to C targets; float64."""

    def __init__(self, features: int, targets: int, device: torch.device | None = None) -> None:
        double = torch.float64
        self.gram = torch.zeros(features + 1, features + 1, dtype=double, device=device)
        self.cross = torch.zeros(features + 1, targets, dtype=double, device=device)
        self.rows = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows: NxF and NxC. Their products are summed in the rows' own precision."""
        x = torch.cat([features, features.new_ones(len(features), 1)], dim=1)  # Nx(F+1)
        self.gram += (x.T @ x).double()
        self.cross += (x.T @ targets).double()
        self.rows += len(features)

    def scales(self) -> Tensor:
        """Tell the root mean square of every feature, F in float32."""
        squares = self.gram.diagonal()[:-1] / max(1, self.rows)
        return squares.sqrt().float()

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
