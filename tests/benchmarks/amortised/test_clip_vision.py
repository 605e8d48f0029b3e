from __future__ import annotations

import numpy as np
import onnx
import pytest

from samclip.benchmarks.amortised.clip_vision import (
    CONFIGS,
    ClipVisionConfig,
    dense_size,
    make_clip_vision,
)
from samclip.benchmarks.amortised.second_model import (
    SecondModel,
    classify_whole,
    name_all,
    open_second,
)
from samclip.benchmarks.roofline.count import count
from samclip.benchmarks.roofline.read_graph import read_graph
from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.registry import get_backend

SMALL = ClipVisionConfig(width=64, layers=2, heads=4, patch=16, dim=32)
SIDE = 96


def run(data: bytes, image: np.ndarray) -> dict[str, np.ndarray]:
    engine = get_backend("onnxruntime").load(GraphSource("clip", data), EngineOptions(threads=1))
    results = {name: tensor.numpy() for name, tensor in engine.run({"image": image}).items()}
    engine.close()
    return results


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)


def test_fused_attention_computes_what_plain_attention_does(image: np.ndarray) -> None:
    fused, plain = (
        run(make_clip_vision(SMALL, SIDE, dense=True, fused=fused), image)
        for fused in (True, False)
    )
    assert fused["image_embed"].shape == (1, 32)
    assert fused["patch_embeds"].shape == (1, 36, 32)
    for name, values in plain.items():
        np.testing.assert_allclose(fused[name], values, atol=1e-5, err_msg=name)


def test_both_forms_are_the_same_work() -> None:
    works = [
        count(read_graph(make_clip_vision(SMALL, SIDE, fused=fused), "clip"))
        for fused in (True, False)
    ]
    assert works[0].macs == works[1].macs
    tokens, width = 37, 64
    per_layer = 12 * tokens * width**2 + 2 * tokens**2 * width
    patches = 36 * 3 * 16**2 * width
    assert works[0].macs == 2 * per_layer + patches + tokens * width * 32


def test_a_dense_pass_takes_whole_patches() -> None:
    assert dense_size(CONFIGS["vit-b-16"]) == 1024
    assert dense_size(CONFIGS["vit-l-14"]) == 1022


@pytest.mark.parametrize("size", [(60, 100), (100, 60), (3, 400)])
def test_photos_of_any_shape_are_named_and_labelled(size: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    options = EngineOptions(threads=1)
    backend = get_backend("onnxruntime")
    whole = open_second(SMALL, backend, options, 5, dense=False)
    assert classify_whole(whole, photo).shape == (5,)
    whole.close()
    data = make_clip_vision(SMALL, SIDE, dense=True)
    engine = backend.load(GraphSource("clip", data), options)
    dense = SecondModel(engine, whole.work, SIDE, whole.names)
    cosines, labels = name_all(dense, photo)
    assert cosines.shape == (5,)
    assert (labels.shape, labels.dtype) == (size, np.int32)
    assert set(np.unique(labels)) <= set(range(5))
    dense.close()


@pytest.mark.slow
def test_the_graph_is_transformers_clip(image: np.ndarray) -> None:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        patch_size=16,
        image_size=SIDE,
        projection_dim=32,
        hidden_act="gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval()
    data = make_clip_vision(SMALL, SIDE)
    graph = onnx.load_from_string(data).graph
    ours = {
        one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy())
        for one in graph.initializer
    }
    state = model.state_dict()
    for name in state:
        state[name] = _ours(name, ours, state[name])
    model.load_state_dict(state)
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).image_embeds.numpy()
    np.testing.assert_allclose(run(data, image)["image_embed"], expected, atol=1e-4)


def _ours(name: str, ours: dict, former: object) -> object:
    ends = {
        "class_embedding": lambda: ours["class"].reshape(-1),
        "patch_embedding.weight": lambda: ours["patches"],
        "position_embedding.weight": lambda: ours["positions"][0],
        "visual_projection.weight": lambda: ours["proj.weight"].T,
        **{
            f"{theirs}.{kind}": lambda mine=mine, kind=kind: ours[f"{mine}.{kind}"]
            for theirs, mine in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post"))
            for kind in ("weight", "bias")
        },
    }
    for end, give in ends.items():
        if name.endswith(end):
            return give()
    parts = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    parts |= {"fc1": "fc", "fc2": "mlp", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    if ".layers." not in name:
        return former  # position_ids
    layer, part, kind = name.split(".layers.")[1].split(".", maxsplit=1)[0], *name.split(".")[-2:]
    value = ours[f"block{layer}.{parts[part]}.{kind}"]
    return value.T if value.ndim == 2 else value
