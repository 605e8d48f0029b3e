"""CLIP's own opinion of a box or a mask, from its last map.

Open-Vocabulary SAM (Yuan et al., 2024), after F-VLM (Kuo et al., 2023); repository
HarborYuan/ovsam, `seg/models/detectors/ovsam.py`.

Boxes: RoIAlign, then CLIP's own attention pool. The released code takes these boxes from the
annotations, even where the prompt is a point. Here they are the prompt's boxes, and for prompts
without one the box of the predicted mask, because users of the model have no annotations.

Masks, for backbones without an attention pool, such as ConvNeXt: the last map is averaged inside
the predicted mask, and CLIP's own head takes the mean (`mask_pool` and `OpenCLIPBackbone` as in
repository lxtGH/OMG-Seg, which ovsam shares code with).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.ovsam.clip_resnet import AttentionPool, ResNetConfig
from samclip.export.models.ovsam.convnext import EPS, ClipMlp, ConvNextConfig
from samclip.export.models.ovsam.roi_classifier import STRIDES, roi_align, text_logits


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


class ClipMaskPool(nn.Module):
    """Masks to logits for any texts, by CLIP alone: mean, LayerNorm, MLP."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        channels, width = config.channels[-1], config.embed_dim
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.mlp = ClipMlp(channels, 2 * width, width, out_bias=False)

    def forward(self, c5: Tensor, low_res_masks: Tensor, text: Tensor) -> Tensor:
        """Score N masks of one image against K texts: NxK logits.

        `c5` is the backbone's last map, 1xCxS/32xS/32; `low_res_masks` Nx1xS/4xS/4 logits, as the
        decoder gives them; `text` KxD, rows of unit length.
        """
        return text_logits(self.embed(c5, low_res_masks), text)

    def embed(self, c5: Tensor, low_res_masks: Tensor) -> Tensor:
        """Embed N masks of one image in the text space, NxD, not normalised."""
        inside = (at_centres(low_res_masks, c5.shape[-1]) > 0).to(c5.dtype).flatten(1)  # NxL
        cells = c5[0].flatten(1).mT  # LxC
        # A mask without cells gives zeros. The released code adds 1e-8 to their number, the same in
        # float32; but exporters leave out such a small term, and then 0 / 0 is NaN.
        mean = (inside / inside.sum(dim=1, keepdim=True).clamp(min=1)) @ cells  # NxC
        out: Tensor = self.mlp(self.norm(mean))
        return out


def at_centres(masks: Tensor, cells: int) -> Tensor:
    """Interpolate Nx1xHxH masks at the centres of `cells` x `cells`, H an even multiple of them.

    Linear, half-pixel centres, no antialiasing: the mean of the four pixels around each centre.
    """
    factor = masks.shape[-1] // cells
    start = factor // 2 - 1
    return F.avg_pool2d(masks[..., start:, start:], kernel_size=2, stride=factor)
