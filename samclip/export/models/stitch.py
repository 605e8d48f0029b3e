"""The linear seam between a recogniser's feature maps and the middle of another encoder.

Stitching one trained network's front to another's back by a linear layer, fitted in closed form, is
what Bansal et al. (arXiv 2106.07682) and Csiszarik et al. (arXiv 2110.14633) do to
compare representations. Here the front gives maps at four strides, and each comes to stride 8 by
its own linear map: a strided convolution from the finer one, bilinear interpolation from the
coarser ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import LiteFeatures

FINEST = 2  # pixels of the stride-4 map along a side of one token
NEIGHBOURS = 3  # side of the neighbourhood that is seen at stride 8


class Stitch(nn.Module):
    """Sum of one linear map per feature map and one bias: strides 4 to 32 -> BxCxTxT at 8.

    `channels` are those of the maps at strides 4, 8, 16 and 32, `width` is C.
    """

    def __init__(self, channels: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        four, eight, sixteen, thirty_two = channels
        self.from4 = nn.Conv2d(four, width, FINEST, FINEST, bias=False)
        self.from8 = nn.Conv2d(eight, width, NEIGHBOURS, padding=NEIGHBOURS // 2, bias=False)
        self.from16 = nn.Conv2d(sixteen, width, 1, bias=False)
        self.from32 = nn.Conv2d(thirty_two, width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    @property
    def parts(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """The linear maps in the order of the design's channels."""
        return self.from4, self.from8, self.from16, self.from32

    def forward(self, features: LiteFeatures) -> Tensor:
        """Map a recogniser's maps of an image S pixels wide to BxCxTxT, T = S / 8."""
        fine: Tensor = self.from4(features.stride4) + self.from8(features.stride8)
        coarse = _upsample(self.from16(features.stride16), 2)
        coarsest = _upsample(self.from32(features.stride32), 4)
        return fine + coarse + coarsest + self.bias[:, None, None]

    def design(self, features: LiteFeatures) -> Tensor:
        """Unfold the maps into the inputs of one linear map, BxFxTxT.

        F counts, in this order: 2x2 values of every stride-4 channel, the 3x3 neighbourhood at
        stride 8 (zeros beyond the border), the interpolated maps of strides 16 and 32. With weight
        FxC, `forward` is design^T weight + bias at every token.
        """
        batch, _, height, width = features.stride8.shape
        near = F.unfold(features.stride8, NEIGHBOURS, padding=NEIGHBOURS // 2)  # B, 9 C, T T
        return torch.cat(
            [
                F.pixel_unshuffle(features.stride4, FINEST),
                near.reshape(batch, -1, height, width),  # B, 9 C, T, T
                _upsample(features.stride16, 2),
                _upsample(features.stride32, 4),
            ],
            dim=1,
        )

    @torch.no_grad()
    def set_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Write a solution for `design`, `weight` FxC and `bias` C, into the convolutions.

        Raises InputError for other shapes.
        """
        sizes = [conv.weight[0].numel() for conv in self.parts]
        expected = (sum(sizes), len(self.bias))
        if weight.shape != expected or bias.shape != expected[1:]:
            raise InputError(
                f"the stitch takes a weight of {expected} and a bias of {expected[1:]}, not "
                f"{tuple(weight.shape)} and {tuple(bias.shape)}; solve for the channels of design()"
            )
        for conv, part in zip(self.parts, torch.split(weight, sizes), strict=True):
            conv.weight.copy_(part.T.reshape(conv.weight.shape))  # C, channels, side, side
        self.bias.copy_(bias)


def _upsample(x: Tensor, factor: int) -> Tensor:
    """Interpolate BxCxHxW linearly to BxCx(factor H)x(factor W)."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
