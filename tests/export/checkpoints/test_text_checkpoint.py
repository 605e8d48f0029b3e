from __future__ import annotations

import math
import warnings

import pytest
import torch
from reference_open_clip import perturb
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.text_checkpoint import (
    from_hugging_face,
    from_open_clip,
    infer_text_config,
    logit_scale,
    text_state,
)
from samclip.export.models.text_tower import TEXT_TOWER_CONFIGS, TextTower, TextTowerConfig

SMALL = TextTowerConfig(width=128, heads=2, layers=3, embed_dim=32, vocab_size=100)


def small_state() -> dict[str, Tensor]:
    return TextTower(SMALL).state_dict()


def hugging_face_model(config: TextTowerConfig) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers' own imports
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection
    sizes = CLIPTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        projection_dim=config.embed_dim,
        hidden_act="quick_gelu" if config.quick_gelu else "gelu",
        eos_token_id=config.vocab_size - 1,  # where it is found as the highest id, as we do
    )
    model: torch.nn.Module = CLIPTextModelWithProjection(sizes).eval()
    perturb(model)
    return model


def some_tokens(config: TextTowerConfig, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, config.vocab_size - 2, (count, 77), generator=generator)
    for row, length in enumerate((3, 30, 76)):
        tokens[row, length] = config.vocab_size - 1
        tokens[row, length + 1 :] = 0
    return tokens


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TEXT_TOWER_CONFIGS["ViT-B-16"], id="ViT-B-16"),  # ViT-B-32 has the same sizes
        pytest.param(TEXT_TOWER_CONFIGS["ViT-L-14"], id="ViT-L-14", marks=pytest.mark.slow),
        pytest.param(
            TextTowerConfig(width=128, heads=2, layers=2, embed_dim=32, quick_gelu=True),
            id="quick_gelu",
        ),
    ],
)
@torch.inference_mode()
def test_hugging_face_weights_give_hugging_faces_embeddings(config: TextTowerConfig) -> None:
    model = hugging_face_model(config)
    state = text_state(model.state_dict())
    assert infer_text_config(state, quick_gelu=config.quick_gelu) == config
    tower = TextTower(config).eval()
    tower.load_state_dict(state)
    tokens = some_tokens(config)
    expected = model(tokens).text_embeds
    assert (tower(tokens) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("prefix", ["", "text.", "module.", "module.text."])
def test_open_clip_states_lose_prefix_and_image_tower(prefix: str) -> None:
    own = small_state()
    state = {prefix + key: value for key, value in own.items()}
    outer = "module." if prefix.startswith("module.") else ""
    state |= {f"{outer}visual.conv1.weight": torch.zeros(2), f"{outer}logit_scale": torch.zeros(())}
    state |= {f"{outer}logit_bias": torch.zeros(()), "input_resolution": torch.tensor(224)}
    taken = from_open_clip(state)
    assert taken.keys() == own.keys()
    assert all(taken[key] is own[key] for key in own)
    assert text_state(state).keys() == own.keys()


def test_hugging_face_states_lose_the_image_tower() -> None:
    state = hugging_face_model(SMALL).state_dict()
    state |= {
        "vision_model.embeddings.class_embedding": torch.zeros(2),
        "visual_projection.weight": torch.zeros(2),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "logit_scale": torch.tensor(1.0),
    }
    assert from_hugging_face(state).keys() == small_state().keys()


@pytest.mark.parametrize("config", [SMALL, TextTowerConfig(192, 3, 1, 64, 20, 50)])
def test_sizes_are_inferred(config: TextTowerConfig) -> None:
    assert infer_text_config(TextTower(config).state_dict()) == config


def test_what_weights_do_not_tell_is_a_parameter() -> None:
    config = infer_text_config(small_state(), quick_gelu=True, heads=4)
    assert config.quick_gelu
    assert config.heads == 4
    with pytest.raises(CheckpointError, match="not a multiple of 3 heads"):
        infer_text_config(small_state(), heads=3)


@pytest.mark.parametrize(
    "key", ["ln_final.bias", "transformer.resblocks.1.attn.in_proj_bias", "text_projection"]
)
def test_a_missing_key_is_named(key: str) -> None:
    state = small_state()
    del state[key]
    with pytest.raises(CheckpointError, match=f"lacks {key}"):
        infer_text_config(state)


def test_a_missing_layer_is_named() -> None:
    state = {k: v for k, v in small_state().items() if not k.startswith("transformer.resblocks.1.")}
    with pytest.raises(CheckpointError, match=r"lacks transformer\.resblocks\.1\..* and 6 more"):
        infer_text_config(state)
    none = {k: v for k, v in state.items() if not k.startswith("transformer.")}
    with pytest.raises(CheckpointError, match=r"lacks transformer\.resblocks"):
        infer_text_config(none)


def test_an_unexpected_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="cls_emb"):
        infer_text_config(small_state() | {"cls_emb": torch.zeros(128)})


@pytest.mark.parametrize(
    ("key", "shape"),
    [("ln_final.weight", (64,)), ("positional_embedding", (77,)), ("text_projection", (64, 32))],
)
def test_misshapen_weights_are_named(key: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=key):
        infer_text_config(small_state() | {key: torch.zeros(shape)})


def test_states_without_a_text_tower_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no CLIP text tower"):
        text_state({"visual.conv1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no CLIP text tower"):
        text_state({})


def test_other_hugging_face_towers_are_refused() -> None:
    state = hugging_face_model(SMALL).state_dict()
    with pytest.raises(CheckpointError, match=r"unexpected text_model\.head\.weight"):
        text_state(state | {"text_model.head.weight": torch.zeros(2)})
    del state["text_model.encoder.layers.2.self_attn.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"lacks .*layers\.2\.self_attn\.k_proj\.bias"):
        text_state(state)


def test_logit_scale() -> None:
    assert logit_scale({}) == 100.0
    assert logit_scale({"logit_scale": torch.tensor(math.log(50.0))}) == pytest.approx(50.0)
    assert logit_scale({"module.logit_scale": torch.tensor([1.0])}) == pytest.approx(math.e)
    for damaged in (torch.tensor(float("nan")), torch.tensor(1000.0), torch.zeros(2)):
        with pytest.raises(CheckpointError, match="logit_scale"):
            logit_scale({"logit_scale": damaged})
