"""open_clip, as the reference of parity tests: single modules, without torchvision and timm.

The package's own `__init__` asks for both; so a bare package of a private name stands in for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
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


def reference_image_tower(quick_gelu: bool = False, **sizes: Any) -> nn.Module:
    """Build open_clip's `VisionTransformer` with random weights, in eval mode."""
    transformer = load_open_clip("transformer")
    activation = transformer.QuickGELU if quick_gelu else nn.GELU
    tower: nn.Module = transformer.VisionTransformer(act_layer=activation, **sizes)
    perturb(tower)
    return tower.eval()


def small_image_tower() -> nn.Module:
    """An image tower of 48 dimensions that sees 4 x 4 patches of 32 pixels: always the same."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "mlp_ratio": 4.0}
    return reference_image_tower(**sizes, heads=1, output_dim=48)


def reference_resnet(**sizes: Any) -> nn.Module:
    """Build open_clip's `ModifiedResNet` with random weights and statistics, in eval mode."""
    tower: nn.Module = load_open_clip("modified_resnet").ModifiedResNet(**sizes)
    perturb(tower)
    generator = torch.Generator().manual_seed(1)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return tower.eval()


def small_text_tower(embed_dim: int, quick_gelu: bool = False) -> nn.Module:
    """The text tower that `save_clip` writes: always the same weights."""
    sizes = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    torch.manual_seed(3)
    return reference_text_tower(**sizes, output_dim=embed_dim, quick_gelu=quick_gelu)


def save_clip(folder: Path, visual: nn.Module, embed_dim: int, config: dict[str, Any]) -> Path:
    """Write an image tower with a small text tower as a CLIP in open_clip's layout.

    `config`: the content of `open_clip_config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = small_text_tower(embed_dim, bool(config["model_cfg"].get("quick_gelu")))
    state = {f"visual.{key}": value for key, value in visual.state_dict().items()}
    state |= {key: value for key, value in text.state_dict().items() if key != "attn_mask"}
    torch.save({**state, "logit_scale": torch.tensor(4.0)}, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(config), "utf-8")
    return folder / "open_clip_pytorch_model.bin"
