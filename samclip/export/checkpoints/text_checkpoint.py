"""Text weights of other projects, renamed for our text tower, and the sizes read from them.

Two families are known: open_clip (OpenAI's own files share its names) and Hugging Face's CLIP.
Everything here works on dictionaries of tensors; `checkpoint.py` reads the files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import StateDict, some_keys
from samclip.export.models.text_tower import MLP_RATIO, TextTowerConfig

DEFAULT_LOGIT_SCALE = 100.0  # where CLIP's training clips it (Radford et al. 2021, section 2.5)
LOGIT_SCALES = ("logit_scale", "module.logit_scale")
HEAD_WIDTH = 64  # of every released CLIP text tower
# The rest of a full checkpoint: the image tower, and leftovers of TorchScript files.
NOT_TEXT = re.compile(
    r"(visual\.|vision_model\.|visual_projection\."
    r"|(logit_scale|logit_bias|attn_mask|input_resolution|context_length|vocab_size)$"
    r"|text_model\.embeddings\.position_ids$)"
)
TEXT_ROOTS = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)
HF_ROOTS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
HF_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
# Of a layer of either tower.
HF_MODULES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
HF_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def text_state(state: Mapping[str, Tensor]) -> StateDict:
    """Return the text tower's part of a checkpoint of either family, under our names.

    Raises CheckpointError when it belongs to neither.
    """
    if any(key.startswith("text_model.") for key in state):
        return from_hugging_face(state)
    return from_open_clip(state)


def from_open_clip(state: Mapping[str, Tensor]) -> StateDict:
    """Return the text tower of an open_clip state dict, with or without the prefix `text.`.

    The image tower is left out; `module.`, which distributed training adds, is removed. Keys that
    belong to neither tower stay, so that `infer_text_config` can name them.
    """
    plain = {k.removeprefix("module.").removeprefix("text."): v for k, v in state.items()}
    text = {key: value for key, value in plain.items() if not NOT_TEXT.match(key)}
    if not any(key.startswith(TEXT_ROOTS) for key in text):
        raise CheckpointError(
            "no CLIP text tower in this checkpoint: expected open_clip's names "
            "(token_embedding.weight, transformer.resblocks.*, ...) or Hugging Face's "
            f"(text_model.*), got {some_keys(state)}"
        )
    return text


def from_hugging_face(state: Mapping[str, Tensor]) -> StateDict:
    """Rename a Hugging Face CLIP state dict (`text_model.*`, `text_projection.weight`).

    The image tower is left out. Raises CheckpointError for text keys that CLIP's tower lacks.
    """
    text: StateDict = {}
    unknown: list[str] = []
    for key, value in state.items():
        layer = HF_LAYER.fullmatch(key)
        if key in HF_ROOTS:
            text[HF_ROOTS[key]] = value
        elif key == "text_projection.weight":
            text["text_projection"] = value.T.contiguous()  # W, D
        elif layer and layer[2] in HF_MODULES:
            text[f"transformer.resblocks.{layer[1]}.{HF_MODULES[layer[2]]}.{layer[3]}"] = value
        elif not NOT_TEXT.match(key) and not (layer and layer[2] in HF_PROJECTIONS):
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f"not CLIP's text tower: unexpected {some_keys(unknown)}. Only CLIP's own architecture "
            "is supported (no CoCa)."
        )
    return text | _fused_projections(state)


def has_logit_scale(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint states the factor that multiplies cosines."""
    return not state.keys().isdisjoint(LOGIT_SCALES)


def logit_scale(state: Mapping[str, Tensor]) -> float:
    """Read the factor that multiplies cosines: `logit_scale` exponentiated, 100.0 if absent."""
    log = next((state[key] for key in LOGIT_SCALES if key in state), None)
    if log is None:
        return DEFAULT_LOGIT_SCALE
    if log.numel() != 1 or not math.isfinite(scale := log.double().exp().item()):
        raise CheckpointError(
            f"logit_scale of shape {tuple(log.shape)} is not one finite logarithm; "
            "the checkpoint is damaged"
        )
    return scale


def infer_text_config(
    state: Mapping[str, Tensor], *, quick_gelu: bool = False, heads: int | None = None
) -> TextTowerConfig:
    """Return a tower's sizes, read from its weights under our names.

    `quick_gelu` and `heads` leave no trace in the weights: the first must be known (true for
    OpenAI's weights); None for the second is width / 64, as every released tower has it. Raises
    CheckpointError naming missing, unexpected and misshapen keys.
    """
    layers = len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")})
    missing = [key for key in _shapes(1, 1, 1, 1, layers) if key not in state]
    if missing or not layers:
        raise CheckpointError(
            f"the text tower lacks {some_keys(missing) if missing else 'transformer.resblocks.*'}; "
            "give CLIP's whole checkpoint"
        )
    vocabulary, width = _matrix(state, "token_embedding.weight")
    length, _ = _matrix(state, "positional_embedding")
    _, embed_dim = _matrix(state, "text_projection")
    _check_shapes(state, _shapes(vocabulary, length, width, embed_dim, layers))
    heads = usual_heads(width) if heads is None else heads
    if width % heads:
        raise CheckpointError(
            f"the text tower's width {width} is not a multiple of {heads} heads; only towers of "
            "CLIP's own architecture are supported"
        )
    return TextTowerConfig(
        width=width,
        heads=heads,
        layers=layers,
        embed_dim=embed_dim,
        context_length=length,
        vocab_size=vocabulary,
        quick_gelu=quick_gelu,
    )


def usual_heads(width: int) -> int:
    """Return the number of heads that every released tower of this width has."""
    return max(width // HEAD_WIDTH, 1)


def _check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if unexpected := sorted(state.keys() - shapes.keys()):
        raise CheckpointError(
            f"the text tower has {some_keys(unexpected)} besides what CLIP's has; only CLIP's own "
            "architecture is supported"
        )
    wrong = [
        f"{key} {tuple(state[key].shape)}, expected {shape}"
        for key, shape in shapes.items()
        if tuple(state[key].shape) != shape
    ]
    if wrong:
        raise CheckpointError(
            f"the text tower's shapes do not fit together: {some_keys(wrong)}; give CLIP's whole "
            "checkpoint"
        )


def _matrix(state: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    if state[key].dim() != 2:
        raise CheckpointError(
            f"{key} has shape {tuple(state[key].shape)}, expected two dimensions; give CLIP's "
            "whole checkpoint"
        )
    rows, columns = state[key].shape
    return rows, columns


def _shapes(
    vocabulary: int, length: int, width: int, embed_dim: int, layers: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a tower."""
    block: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (MLP_RATIO * width, width),
        "mlp.c_fc.bias": (MLP_RATIO * width,),
        "mlp.c_proj.weight": (width, MLP_RATIO * width),
        "mlp.c_proj.bias": (width,),
    }
    return {
        "token_embedding.weight": (vocabulary, width),
        "positional_embedding": (length, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, embed_dim),
    } | {f"transformer.resblocks.{i}.{k}": s for i in range(layers) for k, s in block.items()}


def _fused_projections(state: Mapping[str, Tensor]) -> StateDict:
    """Stack each layer's query, key and value projections, in this order."""
    layers = {int(m[1]) for key in state if (m := HF_LAYER.fullmatch(key))}
    fused: StateDict = {}
    for layer in sorted(layers):
        for kind in ("weight", "bias"):
            names = [f"text_model.encoder.layers.{layer}.{name}.{kind}" for name in HF_PROJECTIONS]
            if missing := [name for name in names if name not in state]:
                raise CheckpointError(
                    f"the text tower lacks {some_keys(missing)}; give CLIP's whole checkpoint"
                )
            key = f"transformer.resblocks.{layer}.attn.in_proj_{kind}"
            fused[key] = torch.cat([state[name] for name in names])  # 3W[, W]
    return fused
