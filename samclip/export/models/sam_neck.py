"""SAM's neck: what stands between an image encoder's blocks and the mask decoder."""

from __future__ import annotations

from torch import nn

from samclip.export.models.layer_norm import LayerNorm2d

EMBED_CHANNELS = 256


def sam_neck(channels: int, out_channels: int = EMBED_CHANNELS) -> nn.Sequential:
    """Make SAM's neck: BxCxGxG features of `channels` to image embeddings BxC'xGxG.

    Keys are those of segment-anything's `ImageEncoderViT.neck`.
    """
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
