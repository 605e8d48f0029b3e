"""The linear seam between a recogniser's feature maps and the middle of another encoder.

Stitching one trained network's front to another's back by a linear layer, fitted in closed form, is
what Bansal et al. (arXiv 2106.07682) and Csiszarik et al. (arXiv 2110.14633) do to
compare representations. Here the front gives maps at four strides, and each comes to stride 16 by
its own linear map: strided convolutions from the finer ones, bilinear interpolation from the
coarser one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import LiteFeatures

FINEST = 4  # pixels of the stride-4 map along a side of one token; half of it at stride 8
NEIGHBOURS = 3  # side of the neighbourhood that is seen at stride 16


class Stitch(nn.Module):
    """Sum of one linear map per feature map and one bias: strides 4 to 32 -> BxCxGxG at 16.

    `channels` are those of the maps at strides 4, 8, 16 and 32, `width` is C.
    """

    def __init__(self, channels: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        four, eight, sixteen, thirty_two = channels
        half = FINEST // 2
        self.from4 = nn.Conv2d(four, width, FINEST, FINEST, bias=False)
        self.from8 = nn.Conv2d(eight, width, half, half, bias=False)
        self.from16 = nn.Conv2d(sixteen, width, NEIGHBOURS, padding=NEIGHBOURS // 2, bias=False)
        self.from32 = nn.Conv2d(thirty_two, width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    @property
    def parts(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """The linear maps in the order of the design's channels."""
        return self.from4, self.from8, self.from16, self.from32

    def forward(self, features: LiteFeatures) -> Tensor:
        """Map a recogniser's maps of an image S pixels wide to BxCxGxG, G = S / 16."""
        fine: Tensor = self.from4(features.stride4) + self.from8(features.stride8)
        same: Tensor = self.from16(features.stride16)
        coarse = _upsample(self.from32(features.stride32))
        return fine + same + coarse + self.bias[:, None, None]

    def design(self, features: LiteFeatures) -> Tensor:
        """Unfold the maps into the inputs of one linear map, BxFxGxG.

        F counts, in this order: 4x4 values of every stride-4 channel, 2x2 of stride 8, the 3x3
        neighbourhood at stride 16 (zeros beyond the border), the interpolated stride-32 map. With
        weight FxC, `forward` is design^T weight + bias at every token.
        """
        batch, _, height, width = features.stride16.shape
        near = F.unfold(features.stride16, NEIGHBOURS, padding=NEIGHBOURS // 2)  # B, 9 C, G G
        return torch.cat(
            [
                F.pixel_unshuffle(features.stride4, FINEST),
                F.pixel_unshuffle(features.stride8, FINEST // 2),
                near.reshape(batch, -1, height, width),  # B, 9 C, G, G
                _upsample(features.stride32),
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


def _upsample(x: Tensor) -> Tensor:
    """Interpolate BxCxHxW linearly to BxCx2Hx2W."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
