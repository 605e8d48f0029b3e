import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from samclip.errors import CheckpointError, InputWarning
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.text_source import has_text, read_text
from samclip.export.models.text_tower import TextTower, TextTowerConfig

CONFIG = TextTowerConfig(width=64, heads=1, layers=1, embed_dim=48)


@pytest.fixture
def open_clip_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {**TextTower(CONFIG).state_dict(), "logit_scale": torch.tensor(4.0)}


def _hugging_face(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tower under Hugging Face's names."""
    renamed = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    own, theirs = "transformer.resblocks.0", "text_model.encoder.layers.0"
    modules = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    modules |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for kind in ("weight", "bias"):
        for ours, name in modules.items():
            renamed[f"{theirs}.{name}.{kind}"] = state[f"{own}.{ours}.{kind}"]
        parts = state[f"{own}.attn.in_proj_{kind}"].chunk(3)
        for letter, part in zip("qkv", parts, strict=True):
            renamed[f"{theirs}.self_attn.{letter}_proj.{kind}"] = part.contiguous()
    return renamed


def test_both_families_give_one_space(
    open_clip_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(open_clip_state, tmp_path / "open_clip.pt")
    save_file(_hugging_face(open_clip_state), tmp_path / "model.safetensors")
    plain = read_text(read_checkpoint(tmp_path / "open_clip.pt"), quick_gelu=False)
    renamed = read_text(read_checkpoint(tmp_path), quick_gelu=False)
    assert plain.config == renamed.config == CONFIG
    assert plain.space == renamed.space
    assert plain.logit_scale == pytest.approx(54.598, rel=1e-4)  # e^4


@pytest.mark.parametrize(
    ("config", "quick"),
    [
        ({}, True),
        ({"text_config": {}}, True),
        ({"text_config": {"hidden_act": "gelu"}}, False),
        ({"hidden_act": "gelu"}, False),
        ({"text_config": {"hidden_act": "quick_gelu"}}, True),
    ],
)
def test_hugging_faces_activation(
    open_clip_state: dict[str, torch.Tensor], tmp_path: Path, config: object, quick: bool
) -> None:
    save_file(_hugging_face(open_clip_state), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert read_text(read_checkpoint(tmp_path)).config.quick_gelu is quick


def test_openais_own_archives_are_quick_gelu(
    open_clip_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({**open_clip_state, "input_resolution": torch.tensor(224)}, tmp_path / "openai.pt")
    source = read_text(read_checkpoint(tmp_path / "openai.pt"))
    assert source.config.quick_gelu
    with pytest.warns(InputWarning, match="--gelu is used for openai"):
        forced = read_text(read_checkpoint(tmp_path / "openai.pt"), quick_gelu=False)
    assert not forced.config.quick_gelu
    assert forced.space != source.space


def test_half_precision_towers_become_float32(
    open_clip_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save({k: v.half() for k, v in open_clip_state.items()}, tmp_path / "half.pt")
    source = read_text(read_checkpoint(tmp_path / "half.pt"), quick_gelu=True)
    assert {value.dtype for value in source.state.values()} == {torch.float32}


def test_a_broken_config_is_named(open_clip_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(_hugging_face(open_clip_state), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_text(read_checkpoint(tmp_path))


def test_no_tower_here(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": torch.zeros(1)}, tmp_path / "sam.pth")
    checkpoint = read_checkpoint(tmp_path / "sam.pth")
    assert not has_text(checkpoint)
    with pytest.raises(CheckpointError, match="no CLIP text tower"):
        read_text(checkpoint)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"num_attention_heads": 7}, "7 attention heads"),
        ("config.json", {"num_attention_heads": 12, "hidden_act": "relu"}, "'relu'"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, "mean of its tokens"),
    ],
)
def test_sentence_encoders_that_would_embed_wrongly(
    minilm_checkpoint: Path, tmp_path: Path, file: str, content: object, message: str
) -> None:
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (tmp_path / name).symlink_to(minilm_checkpoint.with_name(name))
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_text(read_checkpoint(tmp_path))


def test_a_text_space_depends_on_heads_and_tokenizer(
    minilm_checkpoint: Path, tmp_path: Path
) -> None:
    weights = minilm_checkpoint.read_bytes()
    tokenizer = minilm_checkpoint.with_name("tokenizer.json").read_bytes()
    spaces = set()
    for number, (heads, vocabulary) in enumerate(
        [(12, tokenizer), (6, tokenizer), (12, tokenizer + b" ")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "tokenizer.json").write_bytes(vocabulary)
        (folder / "config.json").write_text(f'{{"num_attention_heads": {heads}}}', "utf-8")
        spaces.add(read_text(read_checkpoint(folder)).space)
    assert len(spaces) == 3
