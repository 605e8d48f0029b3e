"""Heads of teachers: perceptrons from the trunk's tokens into a teacher's space.

Each teacher has a head for its summary token, and one for the patches. Three forms are published;
their depth and widths are read off the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from samclip.errors import CheckpointError
from samclip.export.models.radio.attention import RadioBlock

Form = Literal["v1", "v2", "attn"]
ATTENTION_HEADS = 16
# Of the norms in the two blocks of an attention head: torch's default, which timm's block had when
# the weights were trained. Later versions of timm have 1e-6 there.
ATTENTION_NORM_EPS = 1e-5


class HeadV1(nn.Module):
    """Linear, LayerNorm, ReLU, linear; keys `fc1`, `norm`, `fc2`."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, out)
        self.out = out

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map ...xC to ...xD."""
        del padding
        y: Tensor = self.fc2(F.relu(self.norm(self.fc1(x))))
        return y


class HeadV2(nn.Module):
    """Linear, `inner` residual blocks of LayerNorm, GELU, linear, and such a block to the output.

    Keys `fc1`, `blocks.<k>.0` and `.2`, `final.0` and `.2`.
    """

    def __init__(self, width: int, hidden: int, out: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.blocks = nn.ModuleList(_norm_gelu_linear(hidden, hidden) for _ in range(inner))
        self.final = _norm_gelu_linear(hidden, out)
        self.out = out

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map ...xC to ...xD."""
        del padding
        x = self.fc1(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.final(x)
        return y


class AttentionHead(nn.Module):
    """Transformer blocks among the patches, then a `HeadV2`; keys `blocks.<k>`, `mlp`."""

    def __init__(self, blocks: nn.ModuleList, mlp: HeadV2) -> None:
        super().__init__()
        self.blocks = blocks
        self.mlp = mlp
        self.out = mlp.out

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map patches, BxLxC, to BxLxD; `padding`, Bx1x1xL, is added to the scores of keys."""
        for block in self.blocks:
            x = block(x, padding)
        y: Tensor = self.mlp(x)
        return y


Head = HeadV1 | HeadV2 | AttentionHead


def head_form(state: Mapping[str, Tensor]) -> Form | None:
    """Return the form of a head, by its keys; None for those of anything else."""
    if "mlp.fc1.weight" in state or any(key.startswith("blocks.0.attn.") for key in state):
        return "attn"
    if "fc2.weight" in state or "norm.weight" in state:
        return "v1"
    return "v2" if "final.2.weight" in state or "final.0.weight" in state else None


def make_head(state: Mapping[str, Tensor], what: str, tokens: int) -> Head:
    """Make a head of the form and sizes that its weights have, with random values.

    `tokens` is the number of patches; `what` names the head in errors. Raises CheckpointError for
    weights that no published form has.
    """
    form = head_form(state)
    if form == "v1":
        hidden, width = _shape(state, "fc1.weight", what)
        return HeadV1(width, hidden, _shape(state, "fc2.weight", what)[0])
    if form == "v2":
        if any(key.startswith("pre_norm.") for key in state):
            raise CheckpointError(
                f"{what} begins with a norm (pre_norm.*), a form that is not supported; give a "
                "checkpoint whose heads begin with fc1"
            )
        return _make_v2(state, what)
    if form == "attn":
        return _make_attention(state, what, tokens)
    raise CheckpointError(
        f"{what} has the weights {', '.join(sorted(state)[:6]) or 'none'}, those of no known form; "
        "known are fc1, norm, fc2 (v1), fc1, blocks, final (v2), and blocks, mlp (attn)"
    )


def _make_v2(state: Mapping[str, Tensor], what: str) -> HeadV2:
    hidden, width = _shape(state, "fc1.weight", what)
    return HeadV2(width, hidden, _shape(state, "final.2.weight", what)[0], _count(state))


def _make_attention(state: Mapping[str, Tensor], what: str, tokens: int) -> AttentionHead:
    inside = {key.removeprefix("mlp."): v for key, v in state.items() if key.startswith("mlp.")}
    mlp = _make_v2(inside, f"{what}mlp.")
    blocks = nn.ModuleList()
    for index in range(_count(state)):
        hidden, width = _shape(state, f"blocks.{index}.mlp.fc1.weight", what)
        if width % ATTENTION_HEADS:
            raise CheckpointError(f"{what}blocks.{index} is {width} wide, no multiple of 16 heads")
        blocks.append(
            RadioBlock(
                width,
                ATTENTION_HEADS,
                hidden,
                tokens,
                layer_scale=any(f"blocks.{index}.ls{n}.gamma" in state for n in (1, 2)),
                eps=ATTENTION_NORM_EPS,
                qkv_bias=False,
            )
        )
    return AttentionHead(blocks, mlp)


def _count(state: Mapping[str, Tensor]) -> int:
    """Count `blocks.<k>`, from 0 to the last that has any weight."""
    found = [int(match[1]) for key in state if (match := re.match(r"blocks\.(\d{1,3})\.", key))]
    return max(found, default=-1) + 1


def _shape(state: Mapping[str, Tensor], key: str, what: str) -> tuple[int, int]:
    """Return the shape of a matrix. Raises CheckpointError when it is not there."""
    if key not in state:
        raise CheckpointError(f"{what}{key} is missing; give the checkpoint whole and unchanged")
    shape = tuple(state[key].shape)
    if len(shape) != 2:
        raise CheckpointError(f"{what}{key} has the shape {shape}, expected a matrix")
    return shape


def _norm_gelu_linear(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, out))
