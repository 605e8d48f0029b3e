"""C-RADIO checkpoints and a SAM ViT-H without its blocks, of random weights, as they are published.

`torch.save` writes what NVIDIA's files hold: weights by name, and `args`, an argparse.Namespace
that describes the teachers. `python tests/support/made_radio.py FOLDER radio-v3-b` writes a file of
the published size, in half precision, and a SAM, for measurements.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samclip.export.models.mask_decoder import SamMaskDecoder
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.radio.sizes import RADIO_SIZES, RadioSize
from samclip.export.models.sam_vit import sam_neck

SMALL = RadioSize(width=64, depth=4, num_heads=4, hidden=160, layer_scale=True)
SMALL_SIZES = {"radio-v3-b": SMALL, "radio-v3-h": RadioSize(96, 2, 4, 192)}
STATISTICS = {
    "input_conditioner.norm_mean": torch.tensor([0.48145466, 0.4578275, 0.40821073]),
    "input_conditioner.norm_std": torch.tensor([0.26862954, 0.26130258, 0.27577711]),
}
TEACHERS: list[dict[str, Any]] = [
    {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu"},
    {"name": "siglip2", "type": "siglip2", "version": "siglip2-g-384"},
    {"name": "dino_v2", "type": "dino_v2"},
    {"name": "sam", "type": "sam", "use_summary": False},
]
TEXT_WIDTHS = {"clip": 24, "siglip2": 40}
SAM_WIDTH = 1280


def arguments(**changes: Any) -> argparse.Namespace:
    """`args` of a v3; a change of None takes a setting away."""
    given: dict[str, Any] = {
        "model": "vit_base_patch16_v2_224",
        "teachers": TEACHERS,
        "cls_token_per_teacher": True,
        "register_multiple": 8,
        "cpe_max_size": 2048,
        "mlp_version": "v2",
        "model_norm": False,
        "dtype": torch.bfloat16,
        "output": Path("runs"),
        **changes,
    }
    return argparse.Namespace(**{key: value for key, value in given.items() if value is not None})


def head_v1(width: int, hidden: int, out: int) -> nn.Module:
    """The weights of a v1 head."""
    return nn.ModuleDict(
        {
            "fc1": nn.Linear(width, hidden),
            "norm": nn.LayerNorm(hidden),
            "fc2": nn.Linear(hidden, out),
        }
    )


def head_v2(width: int, hidden: int, out: int, inner: int = 1) -> nn.Module:
    """The weights of a v2 head with `inner` residual blocks."""

    def layer(wide: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, wide))

    return nn.ModuleDict(
        {
            "fc1": nn.Linear(width, hidden),
            "blocks": nn.ModuleList(layer(hidden) for _ in range(inner)),
            "final": layer(out),
        }
    )


def randomised(module: nn.Module) -> dict[str, Tensor]:
    """A module's state with norms, scales and biases that are random, too.

    Matrices get noise by their number of inputs, so that no width has a gain at which attention
    saturates and enlarges every rounding error.
    """
    return {
        key: value
        + torch.randn_like(value) * (0.1 if value.dim() < 2 else 0.8 * value[0].numel() ** -0.5)
        for key, value in module.state_dict().items()
    }


def trunk_state(size: RadioSize, prefix: int = 8) -> dict[str, Tensor]:
    """The weights of a trunk, with random LayerScale where the size has it."""
    width, hidden = size.width, size.hidden or 4 * size.width
    state: dict[str, Tensor] = {
        "patch_generator.embedder.weight": 0.05 * torch.randn(width, 768),
        "patch_generator.pos_embed": 0.5 * torch.randn(1, 128 * 128, width),
        "patch_generator.cls_token.token": torch.randn(prefix, width),
    }
    for index in range(size.depth):
        parts = {
            "norm1": nn.LayerNorm(width),
            "attn.qkv": nn.Linear(width, 3 * width),
            "attn.proj": nn.Linear(width, width),
            "norm2": nn.LayerNorm(width),
            "mlp.fc1": nn.Linear(width, hidden),
            "mlp.fc2": nn.Linear(hidden, width),
        }
        for name, part in parts.items():
            state |= {f"blocks.{index}.{name}.{key}": v for key, v in randomised(part).items()}
        if size.layer_scale:
            state |= {f"blocks.{index}.ls{n}.gamma": 0.2 + torch.rand(width) for n in (1, 2)}
    return {f"base_model.{key}": value for key, value in state.items()}


def radio_state(size: RadioSize = SMALL, prefix: int = 8, hidden: int = 48) -> dict[str, Tensor]:
    """All weights of a v3: trunk, statistics, heads by the teachers' names, and leftovers."""
    state = trunk_state(size, prefix)
    state |= {key: value.reshape(3, 1, 1).clone() for key, value in STATISTICS.items()}
    state["base_model.reg_token"] = torch.zeros(1, 4, size.width)
    state["_intermediate_feature_normalizer.rotation"] = torch.eye(4)
    heads = {
        "_heads.clip": head_v2(size.width, hidden, TEXT_WIDTHS["clip"]),
        "_heads.siglip2": head_v2(size.width, hidden, TEXT_WIDTHS["siglip2"], inner=2),
        "_heads.dino_v2": head_v2(size.width, hidden, 16),
        "_feature_projections.siglip2": head_v2(size.width, hidden, 40),
        "_feature_projections.sam": head_v2(size.width, hidden, SAM_WIDTH),
    }
    for prefix_, head in heads.items():
        state |= {f"{prefix_}.{key}": value for key, value in randomised(head).items()}
    return state


def save_radio(
    path: Path,
    state: dict[str, Tensor],
    args: argparse.Namespace | None = None,
    averaged: dict[str, Tensor] | None = None,
    **others: Any,
) -> Path:
    """Write a checkpoint as NVIDIA's training does."""
    content: dict[str, Any] = {"arch": "vit_base_patch16_v2_224", "epoch": 300}
    content |= {"state_dict": state, "args": args or arguments(), **others}
    if averaged is not None:
        content["state_dict_ema"] = averaged
    torch.save(content, path)
    return path


def save_sam(path: Path, channels: int = SAM_WIDTH) -> Path:
    """Write a SAM ViT-H without its blocks."""
    parts = {
        "image_encoder.neck": sam_neck(channels),
        "prompt_encoder": PromptEncoder(),
        "mask_decoder": SamMaskDecoder(),
    }
    state = {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in randomised(part).items()
    }
    state["image_encoder.pos_embed"] = torch.zeros(1, 64, 64, channels)
    torch.save(state, path)
    return path


def write_published(folder: Path, model_type: str) -> None:
    """Write random weights of a published size: `<type>.pth.tar` in halves, and `sam_vit_h.pth`."""
    torch.manual_seed(0)
    state = radio_state(RADIO_SIZES[model_type], hidden=RADIO_SIZES[model_type].width)
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half() for key, value in state.items()}
    save_radio(folder / f"{model_type}.pth.tar", halves)
    save_sam(folder / "sam_vit_h.pth")


if __name__ == "__main__":
    import sys

    write_published(Path(sys.argv[1]), sys.argv[2])
