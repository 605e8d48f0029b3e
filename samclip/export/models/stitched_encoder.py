"""One encoder out of two networks: a recogniser's front, SAM's back.

The recogniser (EfficientNet-Lite) was trained to name things, and its features are kept as they
are: what classifies images still does. Its maps go through a linear stitch into stage 1 of
MobileSAM's TinyViT, whose last three stages and neck make SAM's image embeddings of them. A
stitch into stage 2 would cost less; it was tried and keeps less of SAM (docs/samclip-tiny.md).

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
from samclip.export.models.sam_neck import sam_neck
from samclip.export.models.stitch import Stitch
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

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a normalised float32 Bx3xSxS image, S = `image_size`; padding is 0.

        Returns the backbone's last maps of all levels of the pyramid, finest first, each repeated
        to the finest grid, Bx(352 levels)xS/32xS/32; and the image embeddings for SAM's decoder,
        Bx256xS/16xS/16.
        """
        features = self.backbone(image)
        return self.last_maps(image, features), self.embed(self.stitch(features))

    def last_maps(self, image: Tensor, features: LiteFeatures) -> Tensor:
        """Give what names are made of, Bx(352 levels)xS/32xS/32, as `forward` does.

        `features` is what the backbone says of the `image` at its full size.
        """
        levels = [features.stride32] + [self._look(image, d) for d in self.pyramid[1:]]
        return torch.cat(levels, dim=1)

    def embed(self, stitched: Tensor) -> Tensor:
        """Take what enters TinyViT's stage 1, Bx128x2Gx2G, to image embeddings Bx256xGxG."""
        for stage in self.stages:
            stitched = stage(stitched)
        out: Tensor = self.neck(stitched)
        return out

    def _look(self, image: Tensor, divisor: int) -> Tensor:
        """Run the backbone on the image at a fraction of its size: Bx352xS/32xS/32."""
        features = self.backbone(F.avg_pool2d(image, divisor))
        return F.interpolate(features.stride32, scale_factor=divisor, mode="nearest")


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
    """Tell what TinyViT feeds to its stage 1, Bx128xS/8xS/8: what the stitch is to give.

    `image` is Bx3xSxS, normalised with SAM's own mean and standard deviation.
    """
    x: Tensor = sam_encoder.patch_embed(image)
    for stage in sam_encoder.layers[:FIRST_STAGE]:
        x = stage(x)
    return x
