"""Image towers of CLIP that are ResNets, RN50 to RN50x64, with their attention pooling.

The backbone and the pooling are those of `samclip.export.models.ovsam.clip_resnet`. The embedding
of each cell of the last map is MaskCLIP's (Zhou et al. 2022, section 3.2): the pooling's value and
output matrices, without its positions, applied to the cell alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from samclip.export.models.ovsam.clip_resnet import AttentionPool, ClipResNet, ResNetConfig

STRIDE = 32  # pixels along a side of a cell of the last map


class ClipResNetTower(nn.Module):
    """Images in, embeddings of images and of the last map's cells out."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ClipResNet(config)
        self.pool = AttentionPool(
            config.channels[-1], config.pool_grid, config.pool_heads, config.embed_dim
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embed N images, Nx3xSxS normalised, S the pooling's size: NxD and NxDxgxg."""
        cells = self.backbone(images)[-1]  # NxCxgxg
        attention, grid = self.pool.attention, self.config.pool_grid
        tokens = attention.out_proj(attention.v_proj(cells.flatten(2).mT))  # NxggxD
        dense = tokens.mT.reshape(-1, self.config.embed_dim, grid, grid)
        return self.pool(cells), dense


def resnet_image_size(config: ResNetConfig) -> int:
    """Return the side in pixels of the images that the pooling was trained with."""
    return STRIDE * config.pool_grid


def describe_resnet(config: ResNetConfig) -> str:
    """Return a short description for people."""
    depths = "-".join(map(str, config.depths))
    return (
        f"CLIP ResNet {config.width} wide, {depths} deep, {resnet_image_size(config)} px -> "
        f"{config.embed_dim}"
    )
