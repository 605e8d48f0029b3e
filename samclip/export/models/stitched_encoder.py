"""One encoder from two networks: a recogniser's front, SAM's back, and a linear seam between them.

The recogniser (EfficientNet-Lite) was trained to name things, and its features are kept as they
are: it still classifies images. A stitch takes its maps to stage 1 of MobileSAM's TinyViT, whose
last three stages and neck compute SAM's image embeddings. A stitch into stage 2 would cost less; it
was tried and keeps less of SAM (docs/models/samclip-tiny.md).

Stitching one trained network's front to another's back by a linear layer, fitted in closed form, is
how Bansal et al. (arXiv 2106.07682) and Csiszarik et al. (arXiv 2110.14633) compare
representations. Here the front has maps at five strides, and each comes to stride 8 by its own
linear map: a strided convolution from the finer ones, bilinear interpolation from the coarser ones.
A hidden layer of ReLUs on the same maps adds what no linear map finds.

A recogniser knows objects at the scale of its training photos, some 260 pixels wide. In an image of
1024 pixels a large object is larger than anything it has seen, so the same backbone can also look
at the image at half and at a quarter of its size (`pyramid`), which costs 1/4 + 1/16 of one look at
the whole. SAM's side needs the finest look only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.efficientnet_lite import (
    LITE2,
    EfficientNetLite,
    EfficientNetLiteConfig,
    LiteFeatures,
)
from samclip.export.models.sam_vit import sam_neck
from samclip.export.models.tiny_vit import (
    PATCH_SIZE,
    TINY_VIT_5M,
    TinyVit,
    TinyVitConfig,
    TinyVitStage,
    init_linear,
)

STRIDE = 32  # of the recogniser's last map
FIRST_STAGE = 1  # of TinyViT, where the stitch leads
HIDDEN = 256
SEEN2 = 4  # pixels of the stride-2 map along a side of one token
SEEN4 = 4  # side of the neighbourhood that is seen at stride 4
SEEN8 = 3  # and at stride 8


class StitchedEncoder(nn.Module):
    """An image encoder for square images of `image_size` pixels; weights are random until loaded.

    `pyramid` lists the divisors of the size at which the backbone looks at the image, 1 first. No
    tensor depends on either. Raises InputError unless `image_size` is a multiple of 32 times the
    largest divisor and every divisor divides it.
    """

    def __init__(
        self,
        image_size: int = 1024,
        pyramid: tuple[int, ...] = (1,),
        recogniser: EfficientNetLiteConfig = LITE2,
        config: TinyVitConfig = TINY_VIT_5M,
    ) -> None:
        super().__init__()
        check_pyramid(image_size, pyramid)
        self.image_size = image_size
        self.pyramid = pyramid
        self.grid = image_size // PATCH_SIZE  # of the image embeddings
        self.backbone_grid = image_size // STRIDE  # of the backbone's features
        self.backbone = EfficientNetLite(recogniser)
        self.backbone_channels = self.backbone.channels[-1] * len(pyramid)
        self.stitch = Stitch(self.backbone.channels, config.widths[FIRST_STAGE])
        self.stages = nn.ModuleList(
            TinyVitStage(config, index) for index in range(FIRST_STAGE, len(config.widths))
        )
        self.neck = sam_neck(config.widths[-1])
        self.stages.apply(init_linear)

    def crop(self, canvas: tuple[int, int]) -> None:
        """Take images of `canvas` (h, w) pixels: nothing in this encoder depends on the size."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a normalised float32 Bx3xSxS image, S = `image_size`; padding is 0.

        After `crop` images are hxw, multiples of 32: coarse looks are padded with zeros to whole
        cells, as the square has them there.

        Returns the backbone's last maps of all levels of the pyramid, finest first, each repeated
        to the finest grid, Bx(352 levels)xS/32xS/32; and the image embeddings for SAM's decoder,
        Bx256xS/16xS/16.
        """
        features = self.backbone(image)
        return self.last_maps(image, features), self.embed(self.stitch(features))

    def last_maps(self, image: Tensor, features: LiteFeatures) -> Tensor:
        """Return the maps that names are computed from, Bx(352 levels)xS/32xS/32, as `forward`.

        `features` are the backbone's of the `image` at its full size.
        """
        levels = [features.stride32]
        rows, columns = features.stride32.shape[-2:]
        for divisor in self.pyramid[1:]:
            seen = F.avg_pool2d(image, divisor)
            bottom, right = (-side % STRIDE for side in seen.shape[-2:])
            if bottom or right:
                seen = F.pad(seen, (0, right, 0, bottom))
            coarse = self.backbone(seen).stride32
            whole = F.interpolate(coarse, scale_factor=divisor, mode="nearest")
            levels.append(whole[..., :rows, :columns] if bottom or right else whole)
        return torch.cat(levels, dim=1)

    def embed(self, stitched: Tensor) -> Tensor:
        """Map the input of TinyViT's stage 1, Bx128x2Gx2G, to image embeddings, Bx256xGxG."""
        for stage in self.stages:
            stitched = stage(stitched)
        out: Tensor = self.neck(stitched)
        return out


class Stitch(nn.Module):
    """One linear map per feature map, and a hidden layer: strides 2 to 32 -> BxCxTxT at 8.

    `channels` are those of the maps at strides 2, 4, 8, 16 and 32, `width` is C. Every convolution
    has C outputs, which are the linear part, and `hidden` more, which go through ReLU and
    `project`. Its weights start as zeros: a new stitch is linear.
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


def check_pyramid(image_size: int, pyramid: tuple[int, ...]) -> None:
    """Raise InputError unless a StitchedEncoder can have this size and these divisors."""
    if not pyramid or pyramid[0] != 1 or min(pyramid) < 1 or len({*pyramid}) < len(pyramid):
        raise InputError(
            f"pyramid={pyramid}; it takes different divisors of the image size, 1 first, "
            "for instance (1, 2, 4)"
        )
    if image_size <= 0 or any(image_size % (STRIDE * divisor) for divisor in pyramid):
        raise InputError(
            f"a stitched encoder got image_size={image_size} with the pyramid {pyramid}; it takes "
            f"a positive multiple of {STRIDE} times every divisor, for instance 1024"
        )


def stitch_target(sam_encoder: TinyVit, image: Tensor) -> Tensor:
    """Return the input of TinyViT's stage 1, Bx128xS/8xS/8, which the stitch is to reproduce.

    `image` is Bx3xSxS, normalised with SAM's own mean and standard deviation.
    """
    x: Tensor = sam_encoder.patch_embed(image)
    for stage in sam_encoder.layers[:FIRST_STAGE]:
        x = stage(x)
    return x
