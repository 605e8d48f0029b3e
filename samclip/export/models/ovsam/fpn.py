"""The feature pyramid on a CLIP backbone's maps, from which regions are classified.

Feature Pyramid Networks (Lin et al., 2017), section 3, without norms or activations, as mmdet's
`FPN` is by default; Open-Vocabulary SAM (Yuan et al., 2024), "CLIP2SAM".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import nn

from samclip.export.models.ovsam.levels import Levels


class Fpn(nn.Module):
    """A pyramid of `out_channels` on maps of `channels` at strides 4, 8, 16 and 32.

    Coarser laterals are added to finer ones, each value repeated to 2x2.
    """

    def __init__(self, channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            nn.Conv2d(inputs, out_channels, kernel_size=1) for inputs in channels
        )
        self.fpn_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1) for _ in channels
        )

    def forward(self, levels: Levels) -> Levels:
        """Map a backbone's levels to levels of `out_channels` at the same strides."""
        laterals = [conv(level) for conv, level in zip(self.lateral_convs, levels, strict=True)]
        for finer in reversed(range(len(laterals) - 1)):
            coarse = F.interpolate(laterals[finer + 1], scale_factor=2, mode="nearest")
            laterals[finer] = laterals[finer] + coarse
        return Levels(*(conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True)))
