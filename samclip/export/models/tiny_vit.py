"""TinyViT-5M, the image encoder of MobileSAM.

After TinyViT (Wu et al., arXiv 2207.10666, section 3.3) as configured by MobileSAM (Zhang et al.,
arXiv 2306.14289): the last patch merging has stride 1, so the grid is 1/16 of the image, as SAM's
decoder expects. LayerNorms keep PyTorch's default epsilon of 1e-5, unlike SAM's ViT (1e-6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import InputError
from samclip.export.models.attention import LoweredAttention, scaled_attention
from samclip.export.models.block import merge_windows, partition_windows
from samclip.export.models.norms import ConvNorm
from samclip.export.models.sam_vit import sam_neck

PATCH_SIZE = 16

# Keys of `image_encoder.*`, without that prefix, that a MobileSAM checkpoint has and the encoder
# does not use: the ImageNet classifier that TinyViT was pretrained with.
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
        self.patch_embed = TinyVitPatchEmbed(config.widths[0])
        self.layers = nn.ModuleList(TinyVitStage(config, i) for i in range(len(config.widths)))
        self.apply(init_linear)
        self.neck = sam_neck(self.backbone_channels)

    def crop(self, canvas: tuple[int, int]) -> None:
        """Take images of `canvas` (h, w) pixels: nothing in this encoder depends on the size."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a normalised float32 Bx3xSxS image, S = `image_size`, or hxw after `crop`.

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


class TinyVitStage(nn.Module):
    """The blocks of one stage and the patch merging after it: BxCxHxW -> BxC'xH/sxW/s.

    `stage` is 0 to 3; stage 0 has blocks of `MBConv`, the others of `TinyVitBlock`; stage 3 has no
    patch merging.
    """

    def __init__(self, config: TinyVitConfig, stage: int) -> None:
        super().__init__()
        width, heads, window = (x[stage] for x in (config.widths, config.num_heads, config.windows))
        self.blocks = nn.ModuleList(
            MBConv(width, config.expand_ratio)
            if stage == 0
            else TinyVitBlock(width, heads, window, config.mlp_ratio)
            for _ in range(config.depths[stage])
        )
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


class TinyVitPatchEmbed(nn.Module):
    """Two strided 3x3 convolutions with a GELU between: Bx3xSxS -> BxCxS/4xS/4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, 3, stride=2),
            nn.GELU(),
            ConvNorm(width // 2, width, 3, stride=2),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Embed a normalised Bx3xSxS image."""
        out: Tensor = self.seq(image)
        return out


class MBConv(nn.Module):
    """Inverted bottleneck with a residual: 1x1 up, 3x3 depthwise, 1x1 down; shape kept."""

    def __init__(self, width: int, expand_ratio: float) -> None:
        super().__init__()
        hidden = int(width * expand_ratio)
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width, bn_weight=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Refine BxCxHxW features; a GELU follows the residual sum."""
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """From one stage to the next: BxCxHxW -> BxC'xH/sxW/s with stride s of 1 or 2."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_width, out_width)
        self.conv2 = ConvNorm(out_width, out_width, 3, stride=stride, groups=out_width)
        self.conv3 = ConvNorm(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Widen, mix 3x3 neighbourhoods at the stride, and project."""
        x = F.gelu(self.conv1(x))
        x = F.gelu(self.conv2(x))
        out: Tensor = self.conv3(x)
        return out


class TinyVitBlock(nn.Module):
    """Windowed attention, depthwise 3x3 convolution, MLP: BxHxWxC -> BxHxWxC.

    The grid is padded with zeros at the bottom and right to whole windows; as in the original,
    the padding takes part in the attention.
    """

    def __init__(self, width: int, num_heads: int, window_size: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = WindowAttention(width, num_heads, window_size)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = TinyVitMlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Refine BxHxWxC tokens."""
        x = x + self._attend(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # B, H, W, C
        out: Tensor = x + self.mlp(x)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        """Attend window by window over the padded grid, and crop."""
        side = self.window_size
        windows = self.attn(partition_windows(x, side).flatten(1, 2))  # M, N, C
        return merge_windows(windows, side, (x.shape[0], x.shape[1], x.shape[2]))


class WindowAttention(LoweredAttention):
    """LayerNorm, then multi-head attention within windows: MxNxC -> MxNxC, N = window_size^2.

    `qkv` is laid out head by head: rows [q, k, v] of head 0, then of head 1, and so on. The biases
    are gathered in every call, so they are never stale (the original caches them in `eval()`, and
    weights loaded after it go unseen); as the indices are constant, engines fold the gather.

    Of the lowerings only `fused` differs: windows are small, with nothing to chunk or to fold.
    """

    attention_bias_idxs: Tensor

    def __init__(self, width: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        self.register_buffer("attention_bias_idxs", bias_indices(window_size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each of the M windows."""
        windows, tokens, width = x.shape
        qkv = self.qkv(self.norm(x))
        qkv = qkv.reshape(windows, tokens, self.num_heads, -1).transpose(1, 2)  # M, heads, N, 3d
        q, k, v = qkv.chunk(3, dim=-1)  # M, heads, N, d
        bias = self.attention_biases.index_select(1, self.attention_bias_idxs.flatten())
        bias = bias.reshape(self.num_heads, tokens, tokens)  # heads, N, N
        x = self._attend(q, k, v, bias).reshape(windows, tokens, width)  # M, N, C
        out: Tensor = self.proj(x)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Map queries, keys and values, M x heads x N x d, to M x N x heads x d."""
        if self.lowering == "fused":
            x = scaled_attention(q, k, v, bias.unsqueeze(0))
            # A real copy, as in `RelPosAttention`: its strides are those of one kernel.
            return x.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias  # M, heads, N, N
        found: Tensor = scores.softmax(dim=-1) @ v
        return found.transpose(1, 2)


def bias_indices(window_size: int) -> Tensor:
    """Return the bias's index for each (query, key) of a window: int64, NxN, N = window_size^2.

    The bias depends on the absolute offset (|dy|, |dx|) alone; offset (a, b) has number
    a * window_size + b, the order in which the original code meets the offsets.
    """
    side = torch.arange(window_size)
    rows, columns = side.repeat_interleave(window_size), side.repeat(window_size)
    dy = (rows[:, None] - rows[None, :]).abs()
    dx = (columns[:, None] - columns[None, :]).abs()
    return dy * window_size + dx


class TinyVitMlp(nn.Module):
    """LayerNorm, then a perceptron with one hidden layer and GELU, over the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ...xC to ...xC."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out
