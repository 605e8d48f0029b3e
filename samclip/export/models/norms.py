"""Batch norms behind convolutions, their exact folding for export, and LayerNorm over channels."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: BxCxHxW -> BxC'xH'xW'.

    The padding keeps the size at stride 1 (`kernel_size` is odd). With `same` it is TensorFlow's
    SAME at every stride, as weights that were trained there require. The children are called `c`
    and `bn` as in TinyViT's checkpoints. `bn_weight` is the batch norm's initial scale: with 0 a
    residual branch starts at zero; `eps` is added to its variance.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        bn_weight: float = 1.0,
        eps: float = 1e-5,
        same: bool = False,
    ) -> None:
        super().__init__()
        self.pads_input = same and stride > 1  # at stride 1 SAME is the convolution's own padding
        padding = 0 if self.pads_input else kernel_size // 2
        self.c = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps)
        nn.init.constant_(self.bn.weight, bn_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map BxCxHxW features to BxC'xH'xW' ones."""
        if self.pads_input:
            kernel_size, stride = self.c.kernel_size[0], self.c.stride[0]
            height, width = (same_padding(size, kernel_size, stride) for size in x.shape[-2:])
            x = F.pad(x, (*width, *height))
        out: Tensor = self.bn(self.c(x))
        return out


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after an axis of `size` that make ceil(size / stride) outputs.

    TensorFlow's SAME: of an odd number of zeros the larger half comes after the axis.
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def fold_batch_norms(model: ModuleT) -> ModuleT:
    """Return a copy of `model`, in eval mode, whose batch norms are merged into the convolutions.

    In eval mode a batch norm is the affine map y = w (x - mean) / sqrt(var + eps) + b, so scaling
    the convolution's filters and giving it a bias computes the same; this is done in float64 and
    rounded once. Convolutions gain a `bias` and the `bn` entries leave the state dict. `model`
    itself is not changed.
    """
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvNorm) and isinstance(module.bn, nn.BatchNorm2d):
            dtype = module.c.weight.dtype
            with torch.no_grad():
                fused = fuse_conv_bn_eval(module.c.double(), module.bn.double())
                module.c = fused.to(dtype).requires_grad_(True)
            module.bn = nn.Identity()
    return folded


class LayerNorm2d(nn.Module):
    """Normalise each pixel of an NCHW map over its channels, then scale and shift per channel.

    The same function as segment-anything's `LayerNorm2d`, computed channels-last, because only
    `layer_norm` over the last axis becomes one ONNX `LayerNormalization`; the arithmetic written
    out loses all accuracy in float16.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, BxCxHxW float."""
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # BxHxWxC and back

    def last(self, x: Tensor) -> Tensor:
        """Normalise `x`, whose last axis is the channels."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
