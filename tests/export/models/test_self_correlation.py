"""Both steps against their formulas in float64, in every lowering, with padding, and as graphs."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from onnx_export import export_onnx, operators, run_onnx
from reference_segment_anything import randomise, relative_error
from small_radio import random_radio
from torch import Tensor, nn

from samclip.engines.graphs.operators import OPERATORS
from samclip.export.models import attention
from samclip.export.models.attention import Lowering, set_attention_lowering
from samclip.export.models.radio.model import Radio
from samclip.export.models.sam_vit import SamVit, SamVitConfig
from samclip.export.models.self_correlation import TokenAggregation

SIDE = 192  # pixels; 12 x 12 patches, of which a photo of 4:3 leaves three rows to padding
ROWS = 9
VIT = SamVitConfig(width=96, depth=3, num_heads=3, global_blocks=(2,), window_size=4)


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(11)
        yield


def landscape(padded: bool = True) -> Tensor:
    image = torch.randn(1, 3, ROWS * 16, SIDE)
    return F.pad(image, (0, 0, 0, SIDE - ROWS * 16)) if padded else image


def recursive(o: Tensor, v: Tensor, heads: int, proj: nn.Linear) -> Tensor:
    """The formula for one image, in float64: o, what attention made, and v, both LxC."""
    out = []
    for part, values in zip(o.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        unit = part / part.norm(dim=-1, keepdim=True)
        scores = 10 * unit @ unit.T
        scores[scores < 0] = -torch.inf
        out.append(scores.softmax(-1) @ values)
    return F.linear(torch.cat(out, -1), proj.weight.double(), proj.bias.double())


def aggregated(tokens: Tensor) -> Tensor:
    """The formula for tokens LxC in float64, times their mean length."""
    lengths = tokens.norm(dim=-1, keepdim=True)
    f = tokens / lengths
    scores = f @ f.T
    scores = 10 * (scores - scores.mean())
    scores[scores < 0] = -torch.inf
    return scores.softmax(-1) @ f * lengths.mean()


def last_block(model: Radio, image: Tensor) -> tuple[Tensor, Tensor]:
    """Plain and recursive tokens of the photo, without padding, by the formulas in float64."""
    trunk = model.encoder.trunk
    config = trunk.config
    kept = torch.cat([torch.ones(1, config.prefix), trunk(image)[2]], 1)[0] > 0.5
    seen: list[Tensor] = []
    hook = trunk.blocks[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    recursion, trunk.recursion = trunk.recursion, None
    trunk(image)
    trunk.recursion = recursion
    hook.remove()
    x, block = seen[0][0, kept].double(), copy.deepcopy(trunk.blocks[-1]).double()
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
    heads = config.num_heads
    out = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        out.append((a @ b.T / a.shape[-1] ** 0.5).softmax(-1) @ c)
    o = block.attn.proj(torch.cat(out, -1))
    both = []
    for attended in (o, recursive(o, v, heads, block.attn.proj)):
        y = x + block.ls1(attended)
        both.append(y + block.ls2(block.mlp(block.norm2(y))))
    return both[0], both[1]


@pytest.mark.parametrize("padded", [True, False])
def test_c_radios_recursive_attention(padded: bool) -> None:
    model = random_radio(SIDE)
    image = landscape() if padded else torch.randn(1, 3, SIDE, SIDE)
    trunk = model.encoder.trunk
    before = trunk(image)
    trunk.add_recursion()
    prefix, patches, names, mask = trunk.both(image)
    for found, wanted in zip((prefix, patches, mask), before, strict=True):
        assert torch.equal(found, wanted)  # the plain result is the one without
    plain, wanted = last_block(model, image)
    count, kept = trunk.config.prefix, mask[0] > 0.5
    assert int(kept.sum()) == (ROWS * 12 if padded else 144)
    assert relative_error(patches[0, kept], plain[count:]) < 1e-5
    assert relative_error(names[0, kept], wanted[count:]) < 1e-5
    assert relative_error(names[0, kept], patches[0, kept]) > 0.05  # the step matters
    assert bool(torch.isfinite(names).all())


def test_only_what_names_patches_changes() -> None:
    model, image = random_radio(SIDE), landscape()
    features, embeddings = model.encoder(image)
    model.encoder.trunk.add_recursion()
    found, same = model.encoder(image)
    assert torch.equal(embeddings, same)  # SAM's
    assert torch.equal(features[..., 0], found[..., 0])  # the summary, which classifies
    assert relative_error(found[..., 1:], features[..., 1:]) > 0.05
    assert "recursion" not in " ".join(model.state_dict())


def test_windows_leave_the_last_block_global() -> None:
    whole, windowed = random_radio(SIDE), random_radio(SIDE, window_size=4)
    windowed.load_state_dict(whole.state_dict())
    image = landscape()
    windowed.encoder.trunk.add_recursion()
    _, patches, names, mask = windowed.encoder.trunk.both(image)
    plain, wanted = last_block_in_windows(windowed, image)
    kept = mask[0] > 0.5
    assert relative_error(patches[0, kept], plain) < 1e-5
    assert relative_error(names[0, kept], wanted) < 1e-5


def last_block_in_windows(model: Radio, image: Tensor) -> tuple[Tensor, Tensor]:
    """`last_block`'s patches in row-major order: the block sees them window by window."""
    trunk = model.encoder.trunk
    windows = torch.arange(144).reshape(3, 4, 3, 4).transpose(1, 2).flatten()
    kept = windows[windows < ROWS * 12]
    order = kept.argsort()

    def in_rows(tokens: Tensor) -> Tensor:
        return tokens[trunk.config.prefix :][order]

    inside = trunk.forward
    mask = trunk(image)[2][:, windows]
    trunk.forward = lambda given: (*inside(given)[:2], mask)  # type: ignore[method-assign]
    both = last_block(model, image)
    del trunk.forward
    return in_rows(both[0]), in_rows(both[1])


def test_sams_recursive_attention() -> None:
    encoder = SamVit(VIT, SIDE).eval()
    randomise(encoder)
    image = torch.randn(1, 3, SIDE, SIDE)
    features, embeddings = encoder(image)
    encoder.add_recursion()
    plain, same, names = encoder(image)
    assert torch.equal(plain, features)
    assert torch.equal(same, embeddings)
    block = encoder.blocks[-1]
    seen: list[Tensor] = []
    hooks = [
        block.norm1.register_forward_pre_hook(lambda _, given: seen.append(given[0])),
        block.attn.proj.register_forward_hook(lambda _, given, out: seen.append(out)),
    ]
    encoder(image)
    for hook in hooks:
        hook.remove()
    x, o = seen[0].reshape(144, -1).double(), seen[1].reshape(144, -1).double()
    block = copy.deepcopy(block).double()
    v = block.attn.qkv(block.norm1(x)).chunk(3, -1)[2]
    y = x + recursive(o, v, VIT.num_heads, block.attn.proj)
    wanted = y + block.mlp(block.norm2(y))
    assert relative_error(names[0].flatten(1).T, wanted) < 1e-5
    assert relative_error(names, plain) > 0.05


@pytest.mark.parametrize("leading", [0, 1])
@pytest.mark.parametrize("bound", [2**24, 2**12])
def test_aggregation(leading: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_CHUNK_SCORES", bound)  # 2**12: in chunks of 28 rows
    tokens = torch.randn(leading + 144, 64) * (1 + torch.rand(leading + 144, 1)) + 0.4
    mask = torch.ones(1, 12, 12)
    mask[:, ROWS:] = 0
    shape = (1, 64, 1, 145) if leading else (1, 64, 12, 12)
    found = TokenAggregation(leading)(tokens.T.reshape(shape), mask).flatten(2)[0].T
    kept = leading + ROWS * 12
    wanted = aggregated(tokens[leading:kept].double())
    assert relative_error(found[leading:kept], wanted) < 1e-5
    assert torch.equal(found[:leading], tokens[:leading])
    assert torch.equal(found[kept:], tokens[kept:])  # padding
    assert relative_error(found[leading:kept], tokens[leading:kept]) > 0.2


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_tokens_that_are_all_alike_stay_finite(value: float) -> None:
    found = TokenAggregation(0)(torch.full((1, 8, 4, 4), value), torch.ones(1, 4, 4))
    torch.testing.assert_close(found, torch.full((1, 8, 4, 4), value))


@pytest.mark.parametrize("lowering", ["bias", "chunk"])  # others differ in plain attention alone
def test_graphs_of_every_lowering(lowering: Lowering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_CHUNK_SCORES", 2**15)
    monkeypatch.setattr(attention, "MAX_WIDE_CHUNK_SCORES", 2**16)
    image = landscape()
    with torch.inference_mode(mode=False):
        encoder = random_radio(SIDE).encoder
        encoder.trunk.add_recursion()
        set_attention_lowering(encoder, lowering)
        names = ("backbone_features", "image_embeddings")
        graph = export_onnx(encoder, (image.clone(),), ("image",), names, 20)
    assert set(operators(graph)) <= set(OPERATORS)
    set_attention_lowering(encoder, "bias")
    for found, wanted in zip(run_onnx(graph, image=image), encoder(image), strict=True):
        assert relative_error(found, wanted) < 1e-5


def test_the_graph_of_the_aggregation() -> None:
    features, mask = torch.randn(1, 32, 1, 65) + 0.3, torch.ones(1, 8, 8)
    mask[:, :, 6:] = 0
    with torch.inference_mode(mode=False):
        names = ("name_features", "token_mask")
        inputs = (features.clone(), mask.clone())
        graph = export_onnx(TokenAggregation(1), inputs, names, ("aggregated_features",), 20)
    assert set(operators(graph)) <= set(OPERATORS)
    (found,) = run_onnx(graph, name_features=features, token_mask=mask)
    assert relative_error(found, TokenAggregation(1)(features, mask)) < 1e-5
