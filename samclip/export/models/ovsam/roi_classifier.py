"""CLIP2SAM's head: names for boxes, from the feature pyramid.

Open-Vocabulary SAM (Yuan et al., 2024), "CLIP2SAM"; repository HarborYuan/ovsam,
`seg/models/heads/ovsam_head.py`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.ovsam.levels import Levels
from samclip.export.models.ovsam.region_levels import region_features
from samclip.export.models.ovsam.text_logits import text_logits

REGION_SIZE = 12


class RoiClassifier(nn.Module):
    """Boxes to logits for any texts.

    After the convolution comes a ReLU, which the paper does not mention: the released code makes it
    of mmcv's `ConvModule`, which has one unless told otherwise. The paper adds the decoder's label
    token to the region's vector; the released code multiplies the token by 0 first, so that names
    come from the box alone, whatever the mask. So it is here.
    """

    def __init__(self, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, embed_dim, kernel_size=1, bias=False)

    def forward(
        self,
        fpn_4: Tensor,
        fpn_8: Tensor,
        fpn_16: Tensor,
        fpn_32: Tensor,
        boxes: Tensor,
        text: Tensor,
    ) -> Tensor:
        """Score N `boxes` of one image against K texts: NxK logits.

        `fpn_<stride>` is 1xCxS/stridexS/stride, of `Fpn`; `boxes` Nx4 float (x0, y0, x1, y1) in
        pixels of the input frame; `text` KxD, rows of unit length.
        """
        return text_logits(self.embed(Levels(fpn_4, fpn_8, fpn_16, fpn_32), boxes), text)

    def embed(self, levels: Levels, boxes: Tensor) -> Tensor:
        """Embed N boxes of one image in the text space, NxD, not normalised."""
        features = region_features(levels, boxes, REGION_SIZE)
        return F.relu(self.conv(features)).mean(dim=(-2, -1))
