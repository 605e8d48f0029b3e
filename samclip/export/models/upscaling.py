"""The upscaling of SAM's mask decoder, on tokens: channels stay last, convolutions are products."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.export.models.layer_norm import LayerNorm2d


class Upscaling(nn.Sequential):
    """Image tokens of a GxG grid, upscaled four times a side.

    segment-anything's `MaskDecoder.output_upscaling`, state-dict keys included. Its transposed
    convolutions have kernels as wide as their stride, so each token makes its own 2x2 pixels and
    each of these its own: both are matrix products, and no map is transposed for the norm.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Upscale tokens, BxLxC, to pixels, Bx(16L)x(C/8).

        Their order: token, row and column in the first 2x2, row and column in the second;
        `in_rows` puts masks of them into rows.
        """
        x = tokens.flatten(0, 1)
        for layer in self:
            if isinstance(layer, nn.ConvTranspose2d):
                x = _doubled(x, layer)
            else:
                x = layer.last(x) if isinstance(layer, LayerNorm2d) else layer(x)
        return x.reshape(tokens.shape[0], -1, x.shape[-1])


def _doubled(tokens: Tensor, convolution: nn.ConvTranspose2d) -> Tensor:
    """Apply a transposed convolution of kernel 2 and stride 2 to M tokens, MxC: (4M)xD."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # CxDx2x2 -> (2*2*D)xC
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(tokens, weight, bias).reshape(-1, convolution.out_channels)


def in_rows(masks: Tensor, grid: int) -> Tensor:
    """Put masks, BxMx(16*G*G) in the order of `Upscaling`, into rows of pixels: BxMx4Gx4G."""
    cells = masks.reshape(-1, grid, grid, 2, 2, 2, 2)  # y, x, y2, x2, y1, x1
    rows = cells.permute(0, 1, 3, 5, 2, 4, 6)  # y, y2, y1, x, x2, x1
    return rows.reshape(-1, masks.shape[1], 4 * grid, 4 * grid)
