"""open_clip, as the reference of parity tests: single modules, without torchvision and timm.

The package's own `__init__` asks for both; so a bare package of a private name stands in for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

PACKAGE = "_open_clip_reference"


def _stubs() -> dict[str, types.ModuleType | None]:
    """Stand in for torchvision; hide timm and transformers, which would look for it."""
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    stubs = {name: types.ModuleType(name) for name in names}
    misc: Any = stubs["torchvision.ops.misc"]
    misc.FrozenBatchNorm2d = nn.Identity  # only named by open_clip.utils, never built
    return {**stubs, "timm": None, "transformers": None}


@cache
def load_open_clip(module: str) -> Any:
    """Import one of open_clip's modules; skip the test where the package is not installed."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        pytest.skip("needs open_clip_torch: pip install --no-deps open_clip_torch")
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(Path(spec.origin).parent)]
        sys.modules[PACKAGE] = package
    stubs = _stubs()
    before = {name: sys.modules[name] for name in stubs if name in sys.modules}
    sys.modules.update(stubs)  # type: ignore[arg-type] - None: not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"{PACKAGE}.{module}")
    finally:
        for name in stubs:
            del sys.modules[name]
        sys.modules.update(before)


def reference_text_tower(**sizes: Any) -> nn.Module:
    """Build open_clip's `TextTransformer` with random weights, in eval mode."""
    quick_gelu = sizes.pop("quick_gelu", False)
    transformer = load_open_clip("transformer")
    activation = transformer.QuickGELU if quick_gelu else nn.GELU
    tower: nn.Module = transformer.TextTransformer(act_layer=activation, **sizes)
    return tower.eval()


def reference_tokenizer() -> Callable[[list[str]], NDArray[np.int64]]:
    """open_clip's default tokenizer: texts to N x 77 ids."""
    tokenizer = load_open_clip("tokenizer").SimpleTokenizer()
    return lambda texts: tokenizer(texts).numpy()


def reference_merges() -> list[str]:
    """The merges that open_clip's tokenizer uses, one "left right" each."""
    tokenizer = load_open_clip("tokenizer").SimpleTokenizer()
    return [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)]


def reference_templates(name: str) -> tuple[str, ...]:
    """A template set of open_clip, as strings with `{}`."""
    return tuple(template("{}") for template in getattr(load_open_clip("zero_shot_metadata"), name))


def perturb(module: nn.Module, seed: int = 0) -> None:
    """Add noise to biases and norms, which are drawn as 0 and 1; matrices are random already."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
