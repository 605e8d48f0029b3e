"""timm's block of a ViT, as the reference of parity tests, without torchvision.

Importing timm asks for parts of torchvision that a block has no use for; stubs stand in.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn

BARE = ("timm", "timm.models", "timm.data")  # packages whose own __init__ is left out


@cache
def _vision_transformer() -> Any:
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("needs timm: pip install --no-deps timm")
    root = Path(spec.origin).parent
    stubs = {name: types.ModuleType(name) for name in (*BARE, "torchvision", "torchvision.ops")}
    misc: Any = types.ModuleType("torchvision.ops.misc")
    misc.FrozenBatchNorm2d = nn.Identity
    stubs["torchvision.ops.misc"] = misc
    vars(stubs["timm"])["__version__"] = "0"
    for name in BARE:
        stubs[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] in {"timm", "torchvision"}}
    for name in before:
        del sys.modules[name]
    sys.modules.update(stubs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vars(stubs["timm.data"]).update(vars(importlib.import_module("timm.data.constants")))
            return importlib.import_module("timm.models.vision_transformer")
    finally:
        for name in [n for n in sys.modules if n.split(".")[0] in {"timm", "torchvision"}]:
            del sys.modules[name]
        sys.modules.update(before)


def reference_block(*sizes: Any, **settings: Any) -> nn.Module:
    """timm's `Block` with random weights, in eval mode."""
    block: nn.Module = _vision_transformer().Block(*sizes, **settings)
    return block.eval()
