"""The seam between a recogniser's feature maps and the middle of another encoder.

Stitching one trained network's front to another's back by a linear layer, fitted in closed form, is
what Bansal et al. (arXiv 2106.07682) and Csiszarik et al. (arXiv 2110.14633) do to
compare representations. Here the front gives maps at five strides, and each comes to stride 8 by
its own linear map: a strided convolution from the finer ones, bilinear interpolation from the
coarser ones. What no linear map finds, a hidden layer of ReLUs on the same maps adds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import LiteFeatures

HIDDEN = 256
SEEN2 = 4  # pixels of the stride-2 map along a side of one token
SEEN4, SEEN8 = 4, 3  # sides of the neighbourhoods that are seen at strides 4 and 8


class Stitch(nn.Module):
    """One linear map per feature map, and a hidden layer: strides 2 to 32 -> BxCxTxT at 8.

    `channels` are those of the maps at strides 2, 4, 8, 16 and 32, `width` is C. Every convolution
    gives C outputs, which are the linear part, and `hidden` more, which go through ReLU and
    `project`. That begins as zeros: a new stitch is linear.
    """

    def __init__(
        self, channels: tuple[int, int, int, int, int], width: int, hidden: int = HIDDEN
    ) -> None:
        super().__init__()
        two, four, eight, sixteen, thirty_two = channels
        self.width, self.hidden = width, hidden
        outputs = width + hidden
        self.from2 = nn.Conv2d(two, outputs, SEEN2, stride=4, bias=False)
        self.from4 = nn.Conv2d(four, outputs, SEEN4, stride=2, padding=1, bias=False)
        self.from8 = nn.Conv2d(eight, outputs, SEEN8, padding=1, bias=False)
        self.from16 = nn.Conv2d(sixteen, outputs, 1, bias=False)
        self.from32 = nn.Conv2d(thirty_two, outputs, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.project = nn.Conv2d(hidden, width, 1, bias=False)
        nn.init.zeros_(self.project.weight)

    @property
    def parts(self) -> tuple[nn.Conv2d, ...]:
        """The linear maps in the order of the design's features."""
        return self.from2, self.from4, self.from8, self.from16, self.from32

    def forward(self, features: LiteFeatures) -> Tensor:
        """Map a recogniser's maps of an image S pixels wide to BxCxTxT, T = S / 8."""
        fine = self.from2(features.stride2) + self.from4(features.stride4)
        coarse = _upsample(self.from16(features.stride16), 2)
        coarsest = _upsample(self.from32(features.stride32), 4)
        seen = fine + self.from8(features.stride8) + coarse + coarsest + self.bias[:, None, None]
        linear, hidden = torch.split(seen, [self.width, self.hidden], dim=1)
        out: Tensor = linear + self.project(F.relu(hidden))
        return out

    def design(self, features: LiteFeatures) -> Tensor:
        """Unfold the maps into the inputs of one linear map, BxFxTxT.

        F counts, in this order: 4x4 values of every stride-2 channel, the 4x4 neighbourhood at
        stride 4 and the 3x3 one at stride 8 (zeros beyond the border), the interpolated maps of
        strides 16 and 32. With the weights of `set_weights`, `forward` is
        x = design^T weight + bias, then x[:C] + project^T relu(x[C:]), at every token.
        """
        batch, _, height, width = features.stride8.shape
        near4 = F.unfold(features.stride4, SEEN4, padding=1, stride=2)  # B, 16 C, T T
        near8 = F.unfold(features.stride8, SEEN8, padding=1)  # B, 9 C, T T
        return torch.cat(
            [
                F.pixel_unshuffle(features.stride2, SEEN2),
                near4.reshape(batch, -1, height, width),  # B, 16 C, T, T
                near8.reshape(batch, -1, height, width),  # B, 9 C, T, T
                _upsample(features.stride16, 2),
                _upsample(features.stride32, 4),
            ],
            dim=1,
        )

    @torch.no_grad()
    def set_weights(self, weight: Tensor, bias: Tensor, project: Tensor) -> None:
        """Write a solution for `design` into the convolutions.

        `weight` is Fx(C+H), `bias` C+H, `project` HxC, the linear part's outputs first. Raises
        InputError for other shapes.
        """
        sizes = [conv.weight[0].numel() for conv in self.parts]
        outputs = self.width + self.hidden
        expected = ((sum(sizes), outputs), (outputs,), (self.hidden, self.width))
        given = tuple(tuple(part.shape) for part in (weight, bias, project))
        if given != expected:
            raise InputError(
                f"the stitch takes a weight, a bias and a projection of {expected}, not {given}; "
                "solve for the features of design()"
            )
        for conv, part in zip(self.parts, torch.split(weight, sizes), strict=True):
            conv.weight.copy_(part.T.reshape(conv.weight.shape))  # C+H, channels, side, side
        self.bias.copy_(bias)
        self.project.weight.copy_(project.T.reshape(self.project.weight.shape))  # C, H, 1, 1


def _upsample(x: Tensor, factor: int) -> Tensor:
    """Interpolate BxCxHxW linearly to BxCx(factor H)x(factor W)."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
