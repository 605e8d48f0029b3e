from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from made_radio import SMALL, trunk_state
from onnx_export import export_onnx, operators, run_onnx
from reference_radio import reference_radio, trunk_of
from reference_segment_anything import relative_error
from reference_timm import reference_block
from torch import Tensor

from samclip.engines.graphs.operators import OPERATORS
from samclip.export.models import attention
from samclip.export.models.attention import LOWERINGS, Lowering, set_attention_lowering
from samclip.export.models.radio.attention import RadioBlock
from samclip.export.models.radio.sizes import RADIO_SIZES, RadioSize, TrunkConfig
from samclip.export.models.radio.trunk import RadioTrunk, photo_patches, resize_positions

SO400M_HIDDEN = 4304  # timm's
SQUARE, WIDE, TALL = (192, 192), (128, 320), (336, 112)


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(3)
        yield


def small_state(size: RadioSize = SMALL, prefix: int = 8) -> dict[str, Tensor]:
    return {key.removeprefix("base_model."): v for key, v in trunk_state(size, prefix).items()}


def image_of(size: tuple[int, int]) -> Tensor:
    return torch.randn(1, 3, *size)


# Counted: 98 M for v3-B with its table of positions of 12.6 M, 412 M and 631 M for v4 (published).
@pytest.mark.parametrize(
    ("name", "prefix", "millions"),
    [
        ("radio-v3-b", 8, 85.7),
        ("radio-v3-l", 8, 303.2),
        ("radio-v3-h", 8, 630.7),
        ("radio-v4-so400m", 10, 412.4),
        ("radio-v4-h", 10, 630.7),
    ],
)
def test_parameters_of_published_sizes(name: str, prefix: int, millions: float) -> None:
    size = RADIO_SIZES[name]
    sizes = (size.width, size.depth, size.num_heads, size.hidden or SO400M_HIDDEN, prefix)
    with torch.device("meta"):
        trunk = RadioTrunk(TrunkConfig(*sizes, (512, 512), bool(size.layer_scale)))
    count = sum(each.numel() for each in trunk.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("size", [SQUARE, WIDE, TALL])
def test_equals_transformers_with_layer_scale(size: tuple[int, int]) -> None:
    state, image = small_state(), image_of(size)
    expected = reference_radio(SMALL, state, 8)(image).last_hidden_state
    prefix, patches, mask = trunk_of(SMALL, state, size)(image)
    assert relative_error(torch.cat([prefix, patches], 1), expected) < 1e-5
    assert bool((mask == 1).all())
    ones = {k: torch.ones_like(v) if ".ls" in k else v for k, v in state.items()}
    _, others, _ = trunk_of(SMALL, ones, size)(image)
    assert relative_error(others, patches) > 0.1  # the scales matter


@pytest.mark.parametrize("prefix", [5, 10])
def test_equals_transformers_without_layer_scale(prefix: int) -> None:
    size = RadioSize(width=48, depth=3, num_heads=2, hidden=180)
    state, image = small_state(size, prefix), image_of(SQUARE)
    expected = reference_radio(size, state, prefix)(image).last_hidden_state
    tokens = torch.cat(trunk_of(size, state, SQUARE)(image)[:2], 1)
    assert relative_error(tokens, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", [(2048, 2048), (1024, 2048), (768, 1024)])
def test_equals_transformers_at_large_sizes(size: tuple[int, int]) -> None:
    small = RadioSize(width=32, depth=2, num_heads=2, hidden=64, layer_scale=True)
    state, image = small_state(small), image_of(size)
    expected = reference_radio(small, state, 8)(image).last_hidden_state
    tokens = torch.cat(trunk_of(small, state, size)(image)[:2], 1)
    assert relative_error(tokens, expected) < 1e-5


@pytest.mark.slow
def test_v4_h_in_full_equals_transformers_in_a_small_forward() -> None:
    size = RADIO_SIZES["radio-v4-h"]
    state, image = small_state(size, 10), image_of((64, 96))
    ours = torch.cat(trunk_of(size, state, (64, 96))(image)[:2], 1)
    assert ours.shape == (1, 10 + 24, 1280)
    expected = reference_radio(size, state, 10)(image).last_hidden_state
    assert relative_error(ours, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_the_graph_is_as_near_to_float64_as_torch_is(gain: float) -> None:
    """v3-B: what differs is rounding, which a large gain enlarges, in torch as much as here."""
    size = RADIO_SIZES["radio-v3-b"]
    state, image = small_state(size), image_of((256, 256))
    state = {
        k: gain * v if k.endswith((".qkv.weight", ".fc1.weight")) else v for k, v in state.items()
    }
    trunk = trunk_of(size, state, (256, 256))
    single = torch.cat(trunk(image)[:2], 1)
    with torch.inference_mode(mode=False):
        own = trunk_of(size, {k: v.clone() for k, v in state.items()}, (256, 256))
        names = ("prefix", "patches", "mask")
        graph = export_onnx(own, (image.clone(),), ("image",), names, 20)
    ours = torch.cat(run_onnx(graph, image=image)[:2], 1)
    theirs = reference_radio(size, state, 8)(image).last_hidden_state
    exact = torch.cat(trunk.double()(image.double())[:2], 1)
    errors = [relative_error(each.double(), exact) for each in (ours, single, theirs)]
    assert errors[0] < 3 * max(errors[1:])  # 6e-7 in torch with a gain of 1, 4e-6 with 2
    assert (max(errors) < 2e-6) is (gain == 1.0)


@pytest.mark.parametrize("layer_scale", [True, False])
def test_the_block_equals_timms(layer_scale: bool) -> None:
    ours = RadioBlock(64, 4, 160, 30, layer_scale)
    scale = 1e-5 if layer_scale else None
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    theirs = reference_block(64, 4, 2.5, qkv_bias=True, init_values=scale, norm_layer=norm)
    state = {k: torch.randn_like(v) * 0.2 + 0.5 * ("ls" in k) for k, v in ours.state_dict().items()}
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    x = torch.randn(2, 30, 64)
    assert relative_error(ours.eval()(x), theirs(x)) < 1e-5


@pytest.mark.parametrize("align_corners", [False, True])
def test_positions_are_resized_to_the_long_side_and_cut(align_corners: bool) -> None:
    table = torch.randn(1, 128 * 128, 6)
    maps = table.double().reshape(128, 128, 6)
    found = resize_positions(table, (5, 9), align_corners)
    for row, column in product((0, 2, 4), (0, 3, 8)):
        point = []
        for index in (row, column):
            where = index * 127 / 8 if align_corners else (index + 0.5) * 128 / 9 - 0.5
            low = min(max(int(where), 0), 126)
            point.append((low, min(max(where - low, 0.0), 1.0)))
        (y, dy), (x, dx) = point
        top = maps[y, x] * (1 - dx) + maps[y, x + 1] * dx
        below = maps[y + 1, x] * (1 - dx) + maps[y + 1, x + 1] * dx
        wanted = top * (1 - dy) + below * dy
        torch.testing.assert_close(found[0, row * 9 + column].double(), wanted, atol=5e-5, rtol=0)
    whole = resize_positions(table, (128, 128), align_corners)
    assert torch.equal(whole, table)


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("photo", [(192, 128), (96, 192), (192, 64)])
def test_padding_changes_nothing_on_the_photo(photo: tuple[int, int], window: int) -> None:
    state, image = small_state(), image_of(photo)
    padded = F.pad(image, (0, 192 - photo[1], 0, 192 - photo[0]))
    prefix, patches, mask = trunk_of(SMALL, state, (192, 192), window)(padded)
    rows, columns = photo[0] // 16, photo[1] // 16
    grid = mask.reshape(12, 12)
    assert bool((grid[:rows, :columns] == 1).all())
    assert float(grid.sum()) == rows * columns
    expected, inside, _ = trunk_of(SMALL, state, photo, window)(image)
    kept = patches.reshape(12, 12, -1)[:rows, :columns].flatten(0, 1)
    assert relative_error(prefix, expected) < 1e-5
    assert relative_error(kept, inside[0]) < 1e-5
    assert bool(torch.isfinite(patches).all())


def test_a_patch_with_one_pixel_of_the_photo_is_no_padding() -> None:
    image = torch.zeros(1, 3, 48, 32)
    image[0, 2, 17, 30] = -1e-3
    assert photo_patches(image).tolist() == [[0, 0, 0, 1, 0, 0]]


def masked_trunk(trunk: RadioTrunk, image: Tensor, window: int) -> Tensor:
    """Windows by masks in full attention, in float64: prefix and patches of every block."""
    config = trunk.config
    rows, columns = config.grid
    count = config.prefix
    patches = F.conv2d(image.double(), trunk.embedder.weight.double(), stride=16).flatten(2).mT
    x = torch.cat([trunk.prefix.double()[None], patches + trunk.positions.double()], 1)
    y, z = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    labels = (y // window * columns + z // window).flatten()
    apart = torch.cat([torch.arange(-count, 0), labels])  # prefix tokens see themselves alone
    allowed = apart[:, None] == apart[None]
    period = config.depth // 4
    for index, block in enumerate(trunk.blocks):
        weights = {key: value.double() for key, value in block.state_dict().items()}
        windowed = index % period != period - 1 and index != config.depth - 1

        def linear(name: str, v: Tensor, weights: dict[str, Tensor] = weights) -> Tensor:
            return F.linear(v, weights[f"{name}.weight"], weights[f"{name}.bias"])

        def norm(name: str, v: Tensor, weights: dict[str, Tensor] = weights) -> Tensor:
            w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
            return F.layer_norm(v, v.shape[-1:], w, b, 1e-6)

        q, k, v = (
            part.unflatten(2, (config.num_heads, -1)).transpose(1, 2)
            for part in linear("attn.qkv", norm("norm1", x)).chunk(3, -1)
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if windowed:
            scores = scores.masked_fill(~allowed, -torch.inf)
        heads = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        new = x + linear("attn.proj", heads) * weights["ls1.gamma"]
        hidden = F.gelu(linear("mlp.fc1", norm("norm2", new)))
        new = new + linear("mlp.fc2", hidden) * weights["ls2.gamma"]
        x = torch.cat([x[:, :count], new[:, count:]], 1) if windowed else new
    return x


@pytest.mark.parametrize(("depth", "size"), [(8, (128, 192)), (9, (128, 128))])
def test_windows_equal_masked_attention_over_everything(depth: int, size: tuple[int, int]) -> None:
    small = RadioSize(width=32, depth=depth, num_heads=2, hidden=64, layer_scale=True)
    state, image = small_state(small), image_of(size)
    trunk = trunk_of(small, state, size, window_size=4)
    expected = masked_trunk(trunk, image, 4).float()
    tokens = torch.cat(trunk(image)[:2], 1)
    assert relative_error(tokens, expected) < 1e-5
    whole = torch.cat(trunk_of(small, state, size)(image)[:2], 1)
    assert relative_error(whole, expected) > 1e-2  # windows matter


def test_global_blocks_of_published_sizes() -> None:
    def global_blocks(name: str, window: int) -> tuple[int, ...]:
        size = RADIO_SIZES[name]
        sizes = (size.width, size.depth, size.num_heads, size.hidden or 0, 10)
        return TrunkConfig(*sizes, (512, 512), window_size=window).global_blocks

    assert global_blocks("radio-v4-h", 16) == (7, 15, 23, 31)
    assert global_blocks("radio-v4-so400m", 16) == (5, 11, 17, 23, 26)
    assert global_blocks("radio-v4-h", 0) == tuple(range(32))


# Of eight blocks with windows every other one attends within them.
@pytest.mark.parametrize(
    ("lowering", "window", "depth"), [*((each, 0, 4) for each in LOWERINGS), ("chunk", 4, 8)]
)
def test_graphs_of_every_lowering(
    lowering: Lowering, window: int, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MAX_CHUNK_SCORES", 2**12)
    monkeypatch.setattr(attention, "MAX_WIDE_CHUNK_SCORES", 2**13)
    small = replace(SMALL, depth=depth)
    state = small_state(small)
    trunk = trunk_of(small, state, (128, 128), window)
    photo = F.pad(image_of((96, 128)), (0, 0, 0, 32))
    expected = trunk(photo)
    set_attention_lowering(trunk, lowering)
    opset = 23 if lowering == "fused" else 20
    with torch.inference_mode(mode=False):
        trunk = trunk_of(small, {k: v.clone() for k, v in state.items()}, (128, 128), window)
        set_attention_lowering(trunk, lowering)
        names = ("prefix", "patches", "mask")
        graph = export_onnx(trunk, (photo.clone(),), ("image",), names, opset)
    assert set(operators(graph)) <= set(OPERATORS)
    for found, wanted in zip(run_onnx(graph, image=photo), expected, strict=True):
        assert relative_error(found, wanted) < 1e-5
