from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from made_radio import head_v1, head_v2, randomised
from reference_segment_anything import relative_error
from reference_timm import reference_block
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.models.radio.heads import ATTENTION_NORM_EPS, head_form, make_head
from samclip.export.models.radio.model import FeatureNormaliser


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].double().T + state[f"{name}.bias"].double()


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"].double() + state[f"{name}.bias"].double()


def v2(state: dict[str, Tensor], x: Tensor, inner: int, prefix: str = "") -> Tensor:
    x = linear(state, f"{prefix}fc1", x)
    for k in range(inner):
        x = x + linear(
            state, f"{prefix}blocks.{k}.2", F.gelu(norm(state, f"{prefix}blocks.{k}.0", x))
        )
    return linear(state, f"{prefix}final.2", F.gelu(norm(state, f"{prefix}final.0", x)))


@torch.no_grad()
def test_v1() -> None:
    state = randomised(head_v1(24, 40, 12))
    head = make_head(state, "h.", 9)
    head.load_state_dict(state)
    x = torch.randn(2, 9, 24)
    expected = linear(state, "fc2", norm(state, "norm", linear(state, "fc1", x.double())).relu())
    assert relative_error(head(x), expected.float()) < 1e-5
    assert (head_form(state), head.out) == ("v1", 12)


@torch.no_grad()
@pytest.mark.parametrize("inner", [0, 1, 3, 11])
def test_v2_of_any_depth(inner: int) -> None:
    state = randomised(head_v2(24, 40, 12, inner))
    head = make_head(state, "h.", 9)
    head.load_state_dict(state)
    x = torch.randn(2, 9, 24)
    assert relative_error(head(x), v2(state, x.double(), inner).float()) < 1e-5
    assert (head_form(state), head.out) == ("v2", 12)


@torch.no_grad()
@pytest.mark.parametrize("layer_scale", [True, False])
def test_attention_head_equals_timms_blocks(layer_scale: bool) -> None:
    blocks = [
        reference_block(
            64,
            16,
            qkv_bias=False,
            init_values=1e-5 if layer_scale else None,
            norm_layer=partial(torch.nn.LayerNorm, eps=ATTENTION_NORM_EPS),
        )
        for _ in range(2)
    ]
    state = {
        f"blocks.{k}.{key}": value * (1e5 if ".gamma" in key else 1) + 0.1 * torch.randn_like(value)
        for k, block in enumerate(blocks)
        for key, value in block.state_dict().items()
    }
    for k, block in enumerate(blocks):
        own = f"blocks.{k}."
        block.load_state_dict({n.removeprefix(own): v for n, v in state.items() if own in n})
    state |= {f"mlp.{key}": v for key, v in randomised(head_v2(64, 40, 12, 0)).items()}
    head = make_head(state, "h.", 20)
    head.load_state_dict(state)
    x = torch.randn(2, 20, 64)
    expected = v2(state, blocks[1](blocks[0](x)).double(), 0, "mlp.").float()
    assert relative_error(head(x), expected) < 1e-5
    assert (head_form(state), head.out) == ("attn", 12)
    padding = torch.zeros(2, 1, 1, 20)
    padding[..., 15:] = -1e4
    assert relative_error(head(x, padding)[:, :15], head(x[:, :15])) < 1e-5


@torch.no_grad()
def test_the_normaliser_shifts_and_rotates() -> None:
    normaliser = FeatureNormaliser(6)
    mean, rotation = torch.randn(6), torch.randn(6, 6)
    normaliser.load_state_dict({"mean": mean, "tx": rotation})
    x = torch.randn(1, 3, 6)
    for token, found in zip(x[0], normaliser(x)[0], strict=True):
        wanted = torch.stack([row @ (token - mean) for row in rotation])
        assert relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pre_norm.0.weight": torch.ones(24)}, "pre_norm"),
        ({"final.2.weight": None}, "final.2.weight is missing"),
        ({"fc1.weight": torch.ones(3)}, r"fc1.weight has the shape \(3,\)"),
        ({"final.2.weight": None, "final.0.weight": None}, "no known form"),
    ],
)
def test_other_forms_are_refused(changes: dict[str, Tensor | None], words: str) -> None:
    state = randomised(head_v2(24, 40, 12)) | changes
    kept = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(CheckpointError, match=words):
        make_head(kept, "_heads.clip.", 9)
