"""efficientnet_lite_pytorch, as the reference of parity tests: its published weights, its code."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

STRIDES = {3: 4, 6: 8, 14: 16, 20: 32}  # last block of Lite2 at each stride


def reference_lite2(state: dict[str, Tensor], image_size: int) -> Any:
    """The original Lite2 in eval mode; its padding holds for square images of `image_size`."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-lite2", image_size=image_size)
    model.load_state_dict(state)
    return model.eval()


def reference_maps(model: Any, image: Tensor) -> list[Tensor]:
    """The maps after the stem, and after the last blocks of strides 4, 8, 16 and 32."""
    x = model._swish(model._bn0(model._conv_stem(image)))
    maps = [x]
    for index, block in enumerate(model._blocks):
        x = block(x)
        if index in STRIDES:
            maps.append(x)
    return maps
