from __future__ import annotations

import torch
import torch.nn.functional as F
from reference_segment_anything import randomise, relative_error

from samclip.export.models.ovsam.roi_classifier import Levels
from samclip.export.models.ovsam.sam2clip import Fpn

CHANNELS = (5, 7, 9, 11)


@torch.no_grad()
def test_equals_its_definition_in_float64() -> None:
    """Feature Pyramid Networks, figure 3: 1x1 on each level, 2x from above, 3x3 on the sums."""
    fpn = Fpn(CHANNELS, 8)
    randomise(fpn)
    generator = torch.Generator().manual_seed(1)
    levels = Levels(
        *(
            torch.randn(2, width, 24 >> index, 24 >> index, generator=generator)
            for index, width in enumerate(CHANNELS)
        )
    )
    found = fpn(levels)
    above = None
    for index in reversed(range(4)):
        lateral, smooth = fpn.lateral_convs[index].double(), fpn.fpn_convs[index].double()
        weight = lateral.weight[:, :, 0, 0]
        total = torch.einsum("oi,bihw->bohw", weight, levels[index].double())
        total = total + lateral.bias[:, None, None]
        if above is not None:
            total = total + above.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        expected = F.conv2d(total, smooth.weight, smooth.bias, padding=1)
        assert relative_error(found[index].double(), expected) < 1e-6  # float32
        above = total
