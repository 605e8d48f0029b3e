"""TinyViT-5M, the image encoder of MobileSAM.

After MobileSAM (Zhang et al., arXiv 2306.14289) and TinyViT (Wu et al., arXiv 2207.10666). The
last patch merging has stride 1, so the grid is 1/16 of the image, as the SAM decoder wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.conv_norm import fold_batch_norms
from samclip.export.models.sam_neck import sam_neck
from samclip.export.models.tiny_vit_block import TinyVitBlock
from samclip.export.models.tiny_vit_convs import MBConv, PatchEmbed, PatchMerging

__all__ = [
    "IGNORED_CHECKPOINT_KEYS",
    "TINY_VIT_5M",
    "TinyVit",
    "TinyVitConfig",
    "fold_batch_norms",
]

PATCH_SIZE = 16

# Keys of `image_encoder.*`, without that prefix, which a MobileSAM checkpoint carries and the
# encoder does not use: the ImageNet classifier that TinyViT was pretrained with.
IGNORED_CHECKPOINT_KEYS = ("norm_head.weight", "norm_head.bias", "head.weight", "head.bias")


@dataclass(frozen=True)
class TinyVitConfig:
    """One entry per stage: `widths` in channels, `depths` in blocks, `windows` in tokens per side.

    Stage 0 is convolutional; its heads and window are unused. `strides` are those of the patch
    mergings between the stages.
    """

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    num_heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    strides: tuple[int, int, int] = (2, 2, 1)
    expand_ratio: float = 4.0
    mlp_ratio: float = 4.0


TINY_VIT_5M = TinyVitConfig()


class TinyVitStage(nn.Module):
    """The blocks of one stage and the patch merging after it: BxCxHxW -> BxC'xH/sxW/s.

    `stage` is 0 to 3; stage 0 is made of `MBConv`, the others of `TinyVitBlock`; stage 3 has no
    patch merging.
    """

    def __init__(self, config: TinyVitConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(config, stage) for _ in range(config.depths[stage]))
        self.channels_last = stage > 0
        self.downsample: nn.Module = nn.Identity()
        if stage < len(config.strides):
            widths, stride = config.widths[stage : stage + 2], config.strides[stage]
            self.downsample = PatchMerging(widths[0], widths[1], stride)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks, channels last where they are transformers, then merge patches."""
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)  # B, H, W, C
        for block in self.blocks:
            x = block(x)
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)  # B, C, H, W
        out: Tensor = self.downsample(x)
        return out


def _block(config: TinyVitConfig, stage: int) -> nn.Module:
    """Make a block of a stage."""
    width = config.widths[stage]
    if stage == 0:
        return MBConv(width, config.expand_ratio)
    return TinyVitBlock(width, config.num_heads[stage], config.windows[stage], config.mlp_ratio)


class TinyVit(nn.Module):
    """MobileSAM's image encoder for square images of `image_size` pixels, a multiple of 16.

    State-dict keys are those of MobileSAM's `image_encoder.*` without the prefix, less
    `IGNORED_CHECKPOINT_KEYS`. No tensor depends on `image_size`: one checkpoint fits every size.
    Raises InputError for any other size.
    """

    def __init__(self, image_size: int = 1024, config: TinyVitConfig = TINY_VIT_5M) -> None:
        super().__init__()
        if image_size <= 0 or image_size % PATCH_SIZE:
            raise InputError(
                f"TinyViT got image_size={image_size}; it takes a positive multiple of "
                f"{PATCH_SIZE}, for instance 1024."
            )
        self.image_size = image_size
        self.grid = image_size // PATCH_SIZE  # of the image embeddings
        self.backbone_grid = self.grid  # of the backbone's features
        self.backbone_channels = config.widths[-1]
        self.patch_embed = PatchEmbed(config.widths[0])
        self.layers = nn.ModuleList(TinyVitStage(config, i) for i in range(len(config.widths)))
        self.apply(init_linear)
        self.neck = sam_neck(self.backbone_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a normalised float32 Bx3xSxS image, S = `image_size`.

        Returns the backbone's features before the neck, Bx320xGxG, and the image embeddings for
        SAM's decoder, Bx256xGxG, with G = S / 16.
        """
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        return x, self.neck(x)


def init_linear(module: nn.Module) -> None:
    """Initialise linear layers as TinyViT does: truncated normal, std 0.02, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
