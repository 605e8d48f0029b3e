from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from reference_open_clip import perturb, reference_text_tower
from torch import Tensor

from samclip.export.checkpoints.text_source import clip_tokenizer_json
from samclip.export.graphs import GraphSpec, export_graph
from samclip.export.models.text_tower import (
    TEXT_TOWER_CONFIGS,
    QuickGELU,
    TextTower,
    TextTowerConfig,
)
from samclip.runtime.text.tokenizer import Tokenizer

SMALL = TextTowerConfig(width=64, heads=2, layers=2, embed_dim=48)
TEXTS = [
    "",
    "a photo of a cat",
    "word " * 100,
    "2 dogs, 1 bone",
    "naïve café",
    "x",
    "<end_of_text> b",
]


@cache
def token_ids() -> NDArray[np.int64]:
    return Tokenizer.from_bytes(clip_tokenizer_json(), 77)(TEXTS)


def tokens(count: int = len(TEXTS)) -> Tensor:
    """`count` x 77 real token ids, with empty and cut texts among them."""
    return torch.from_numpy(token_ids()[:count].copy())


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


def matching_towers(config: TextTowerConfig) -> tuple[TextTower, torch.nn.Module]:
    """Our tower and open_clip's, with the same random weights."""
    reference = reference_text_tower(
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        output_dim=config.embed_dim,
        quick_gelu=config.quick_gelu,
    )
    perturb(reference)
    tower = TextTower(config).eval()
    tower.load_state_dict(reference.state_dict())
    return tower, reference


@pytest.mark.parametrize("name", ["ViT-B-16", pytest.param("ViT-L-14", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_full_size_equals_open_clip(name: str) -> None:
    tower, reference = matching_towers(TEXT_TOWER_CONFIGS[name])
    ours, theirs = tower(tokens(3)), reference(tokens(3))
    assert ours.shape == (3, TEXT_TOWER_CONFIGS[name].embed_dim)
    assert relative_error(ours, theirs) <= 1e-5


@torch.inference_mode()
def test_quick_gelu_equals_open_clip() -> None:
    config = TextTowerConfig(width=128, heads=2, layers=4, embed_dim=64, quick_gelu=True)
    tower, reference = matching_towers(config)
    assert relative_error(tower(tokens()), reference(tokens())) <= 1e-5
    plain = TextTower(TextTowerConfig(width=128, heads=2, layers=4, embed_dim=64)).eval()
    plain.load_state_dict(tower.state_dict())
    assert relative_error(plain(tokens()), reference(tokens())) > 1e-4  # the flag matters


def test_configs_are_open_clips() -> None:
    sizes = {n: (c.width, c.heads, c.layers, c.embed_dim) for n, c in TEXT_TOWER_CONFIGS.items()}
    assert sizes == {
        "ViT-B-32": (512, 8, 12, 512),
        "ViT-B-16": (512, 8, 12, 512),
        "ViT-L-14": (768, 12, 12, 768),
    }
    assert all(
        c.context_length == 77 and c.vocab_size == 49408 for c in TEXT_TOWER_CONFIGS.values()
    )


@torch.inference_mode()
def test_what_follows_the_end_token_does_not_matter() -> None:
    tower, one = TextTower(SMALL).eval(), tokens(2)[1:]
    other = one.clone()
    other[:, 10:] = 5
    assert torch.equal(tower(one), tower(other))


@torch.inference_mode()
def test_the_mask_equals_an_infinite_one() -> None:
    tower = TextTower(SMALL).eval()
    perturb(tower)
    ours = tower(tokens())
    tower.mask.masked_fill_(tower.mask < 0, float("-inf"))
    assert torch.equal(ours, tower(tokens()))


def test_gradients_reach_every_parameter() -> None:
    tower = TextTower(SMALL)
    tower(tokens()).square().sum().backward()
    without = [name for name, p in tower.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_quick_gelu_formula() -> None:
    x = torch.linspace(-6, 6, 49)
    assert torch.allclose(QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)), atol=1e-6)


@pytest.mark.parametrize(("opset", "quick_gelu"), [(18, False), (20, True), (23, False)])
def test_onnx_equals_torch_for_any_number_of_texts(opset: int, quick_gelu: bool) -> None:
    config = TextTowerConfig(width=64, heads=2, layers=2, embed_dim=48, quick_gelu=quick_gelu)
    check_onnx(config, opset)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14"])
def test_full_size_onnx_equals_torch(name: str) -> None:
    check_onnx(TEXT_TOWER_CONFIGS[name], 20)


def check_onnx(config: TextTowerConfig, opset: int) -> None:
    tower = TextTower(config).eval()
    perturb(tower)
    example = {"tokens": torch.zeros(2, 77, dtype=torch.int64)}
    spec = GraphSpec("text_encoder", tower, example, ("text_embeddings",), {"tokens": {0: "texts"}})
    model = export_graph(spec, opset)
    operators = [node.op_type for node in model.graph]
    assert operators.count("LayerNormalization") == 2 * config.layers + 1
    assert not {"ReduceMean", "OneHot", "NonZero", "If", "Loop"} & set(operators)
    session = onnxruntime.InferenceSession(as_bytes(model), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        (answer,) = session.run(None, {"tokens": tokens(count).numpy()})
        with torch.inference_mode():
            expected = tower(tokens(count))
        assert answer.shape == (count, config.embed_dim)
        assert relative_error(torch.from_numpy(answer), expected) <= 1e-4


def as_bytes(model: object) -> bytes:
    import onnx_ir

    data: bytes = onnx_ir.to_proto(model).SerializeToString()
    return data
