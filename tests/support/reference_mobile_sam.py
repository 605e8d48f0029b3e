"""MobileSAM's original implementation, loaded from its own files, as the reference of parity tests.

Only `build_sam.py` and `modeling/` are loaded, under a private package name: the package's own
`__init__` would ask for torchvision. What they import of timm is stubbed meanwhile.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

PACKAGE = "_mobile_sam_reference"
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class _DropPath(nn.Module):
    """Never reached: MobileSAM builds its encoder with a drop rate of 0."""

    def __init__(self, drop_prob: float | None = None) -> None:
        super().__init__()
        self.drop_prob = drop_prob


def _timm_stubs() -> dict[str, types.ModuleType]:
    names = ("timm", "timm.models", "timm.models.layers", "timm.models.registry")
    stubs = {name: types.ModuleType(name) for name in names}
    layers: Any = stubs["timm.models.layers"]
    layers.to_2tuple = lambda x: (x, x)
    layers.DropPath = _DropPath
    layers.trunc_normal_ = nn.init.trunc_normal_
    registry: Any = stubs["timm.models.registry"]
    registry.register_model = lambda function: function
    return stubs


@contextmanager
def stubbed(stubs: dict[str, types.ModuleType]) -> Iterator[None]:
    """Put `stubs` into sys.modules and afterwards restore exactly these names."""
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@cache
def load_reference(segment_any: Path) -> types.SimpleNamespace:
    """Import the original code below `segment_any`/mobile_sam: `.build_sam`, `.tiny_vit_sam`."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(segment_any / "mobile_sam")]
    sys.modules[PACKAGE] = package
    with stubbed(_timm_stubs()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return types.SimpleNamespace(
            build_sam=importlib.import_module(f"{PACKAGE}.build_sam"),
            tiny_vit_sam=importlib.import_module(f"{PACKAGE}.modeling.tiny_vit_sam"),
        )


def reference_mobile_sam(segment_any: Path, checkpoint: Path) -> Any:
    """The original `Sam` of type vit_t with the weights of `checkpoint`, in eval mode.

    `eval()` comes last: the original caches its attention biases in it.
    """
    model = load_reference(segment_any).build_sam.build_sam_vit_t()
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return model.eval()


def reference_tiny_vit(segment_any: Path, weights: dict[str, Tensor], image_size: int) -> Any:
    """The original image encoder, built for `image_size`, with `weights` (keys without prefix)."""
    model = load_reference(segment_any).tiny_vit_sam.TinyViT(
        img_size=image_size,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    model.load_state_dict(weights)
    return model.eval()


def reference_encode(encoder: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Run the original encoder: features before the neck Bx320xGxG, and after it Bx256xGxG.

    Its own `forward` has a grid of 64x64 written into it and hides the first of the two.
    """
    x = encoder.patch_embed(image)
    for layer in encoder.layers:
        x = layer(x)
    grid = encoder.img_size // 16
    features = x.view(len(x), grid, grid, -1).permute(0, 3, 1, 2)  # B, C, G, G
    return features, encoder.neck(features)


def sam_input(photo: NDArray[np.uint8], image_size: int) -> Tensor:
    """Resize an HWC uint8 photo to the longest side, normalise, pad: float32, 1x3xSxS."""
    scale = image_size / max(photo.shape[:2])
    height, width = (int(side * scale + 0.5) for side in photo.shape[:2])
    resized = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
    normal = (np.asarray(resized, np.float32) - PIXEL_MEAN) / PIXEL_STD
    image = np.zeros((1, 3, image_size, image_size), np.float32)
    image[0, :, :height, :width] = normal.transpose(2, 0, 1)
    return torch.from_numpy(image)
