"""CLIP's own opinion of a box: RoIAlign on its last map, then its own pooling.

Open-Vocabulary SAM (Yuan et al., 2024), after F-VLM (Kuo et al., 2023); repository
HarborYuan/ovsam, `seg/models/detectors/ovsam.py`. The released code takes these boxes from the
annotations, even where the prompt is a point. We take the prompt's box, and for prompts without one
the box of the predicted mask: what a user of the model has.
"""

from __future__ import annotations

from torch import Tensor, nn

from samclip.export.models.ovsam.attention_pool import AttentionPool
from samclip.export.models.ovsam.levels import STRIDES
from samclip.export.models.ovsam.resnet import ResNetConfig
from samclip.export.models.ovsam.roi_align import roi_align
from samclip.export.models.ovsam.text_logits import text_logits


class ClipRoi(nn.Module):
    """Boxes to logits for any texts, by CLIP alone.

    A region has the grid that CLIP's pooling was trained with, 12x12 for RN50x16, so its positions
    are used as they are, for boxes of any shape.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.pool = AttentionPool(
            config.channels[-1], config.pool_grid, config.pool_heads, config.embed_dim
        )

    def forward(self, c5: Tensor, boxes: Tensor, text: Tensor) -> Tensor:
        """Score N `boxes` of one image against K texts: NxK logits.

        `c5` is the backbone's last map, 1xCxS/32xS/32; `boxes` Nx4 float (x0, y0, x1, y1) in pixels
        of the input frame; `text` KxD, rows of unit length.
        """
        return text_logits(self.embed(c5, boxes), text)

    def embed(self, c5: Tensor, boxes: Tensor) -> Tensor:
        """Embed N boxes of one image in the text space, NxD, not normalised."""
        out: Tensor = self.pool(roi_align(c5, boxes, self.pool.grid, 1 / STRIDES[-1]))
        return out
