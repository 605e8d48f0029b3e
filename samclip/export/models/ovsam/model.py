"""Open-Vocabulary SAM as a whole: its sizes, its parts, and the module that is its encoder graph.

Open-Vocabulary SAM (Yuan et al., 2024); repository HarborYuan/ovsam, `seg/configs/`, for the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.models.merged import TextConfig, build_text_tower
from samclip.export.models.ovsam.clip_regions import ClipMaskPool, ClipRoi
from samclip.export.models.ovsam.clip_resnet import RN50, RN50X16, ClipResNet, ResNetConfig
from samclip.export.models.ovsam.convnext import CONVNEXT_LARGE_D_320, ConvNext, ConvNextConfig
from samclip.export.models.ovsam.decoder import LabelDecoder
from samclip.export.models.ovsam.roi_classifier import STRIDES, RoiClassifier
from samclip.export.models.ovsam.sam2clip import SAM_H_NECK, Fpn, NeckConfig, Sam2ClipNeck
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.text_tower import TextTowerConfig

# RGB in [0, 255]. The released model normalises with ImageNet's statistics, not with CLIP's own.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class OvsamConfig:
    """The architecture for square images of `image_size` pixels, a multiple of 32.

    `text_tower` is that of the CLIP model whose backbone this is, or another in whose space it was
    trained; `fpn_channels` are the pyramid's.
    """

    backbone: ResNetConfig | ConvNextConfig
    text_tower: TextConfig
    neck: NeckConfig = SAM_H_NECK
    image_size: int = 1024
    fpn_channels: int = 256

    @property
    def embed_dim(self) -> int:
        """Dimensions of the text space."""
        return self.backbone.embed_dim


OVSAM_CONFIGS: Mapping[str, OvsamConfig] = MappingProxyType(
    {
        "ovsam-rn50x16": OvsamConfig(
            RN50X16, TextTowerConfig(768, heads=12, layers=12, embed_dim=768, quick_gelu=True)
        ),
        "ovsam-rn50": OvsamConfig(
            RN50, TextTowerConfig(512, heads=8, layers=12, embed_dim=1024, quick_gelu=True)
        ),
        "ovsam-convnext-l": OvsamConfig(
            CONVNEXT_LARGE_D_320, TextTowerConfig(768, heads=12, layers=16, embed_dim=768)
        ),
    }
)


class Ovsam(nn.Module):
    """The parts of Open-Vocabulary SAM; `ovsam.keys` has the published names of their tensors.

    The text tower, which no image needs, is left out unless `with_text`.
    """

    def __init__(self, config: OvsamConfig, with_text: bool = False) -> None:
        super().__init__()
        size, coarsest = config.image_size, STRIDES[-1]
        if size <= 0 or size % coarsest:
            raise CheckpointError(
                f"image size {size} was asked for; Open-Vocabulary SAM takes a positive multiple "
                f"of {coarsest}, for instance 1024"
            )
        self.config = config
        self.backbone: ClipResNet | ConvNext
        self.clip_roi: ClipRoi | ClipMaskPool
        if isinstance(config.backbone, ConvNextConfig):
            self.backbone = ConvNext(config.backbone)
            self.clip_roi = ClipMaskPool(config.backbone)
        else:
            self.backbone = ClipResNet(config.backbone)
            self.clip_roi = ClipRoi(config.backbone)
        self.neck = Sam2ClipNeck(config.neck, self.backbone.channels, size)
        self.fpn = Fpn(self.backbone.channels, config.fpn_channels)
        self.prompt_encoder = PromptEncoder(size, config.neck.out_channels)
        self.mask_decoder = LabelDecoder(config.embed_dim, config.neck.out_channels)
        self.roi_classifier = RoiClassifier(config.fpn_channels, config.embed_dim)
        self.text = build_text_tower(config.text_tower) if with_text else None


class OvsamEncoder(nn.Module):
    """Backbone, neck and pyramid, which an image needs once, as one graph."""

    def __init__(self, model: Ovsam) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.neck = model.neck
        self.fpn = model.fpn

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode `image`, Bx3xSxS float, (RGB - PIXEL_MEAN) / PIXEL_STD, padded with 0.

        Returns image_embeddings, Bx256xS/16xS/16, for the mask decoder; fpn_4 to fpn_32,
        BxCxS/stridexS/stride, for `RoiClassifier`; and c5, BxC'xS/32xS/32, for `ClipRoi`.
        """
        levels = self.backbone(image)
        return self.neck(levels), *self.fpn(levels), levels.stride32
