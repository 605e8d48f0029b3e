"""MiniLM's sentence encoder against transformers, on the real weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.text_source import BERT_LOGIT_SCALE, read_text
from samclip.export.models.bert_tower import (
    IGNORED_CHECKPOINT_KEYS,
    MINILM_L6,
    BertTower,
    infer_bert_config,
    is_bert,
)
from samclip.runtime.text.tokenizer import Tokenizer

TEXTS = ["a photo of a cat.", "dog", "a bad photo of the hard to see espresso machine.", "Straße"]


@pytest.fixture(scope="module")
def state(minilm_checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(minilm_checkpoint)


@pytest.fixture(scope="module")
def tokens(minilm_checkpoint: Path) -> torch.Tensor:
    tokenizer = Tokenizer.from_bytes(
        minilm_checkpoint.with_name("tokenizer.json").read_bytes(), MINILM_L6.context_length
    )
    return torch.from_numpy(tokenizer(TEXTS))


def test_sizes_are_read_off_the_weights(state: dict[str, torch.Tensor]) -> None:
    assert is_bert(state)
    assert infer_bert_config(state, heads=12) == MINILM_L6


@torch.inference_mode()
def test_equals_transformers(state: dict[str, torch.Tensor], tokens: torch.Tensor) -> None:
    own = {key: value for key, value in state.items() if key not in IGNORED_CHECKPOINT_KEYS}
    tower = BertTower().eval()
    tower.load_state_dict(own)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    reference = BertModel(config, add_pooling_layer=False).eval()
    reference.load_state_dict(own)
    present = (tokens != 0).long()
    hidden = reference(tokens, attention_mask=present).last_hidden_state
    expected = (hidden * present[..., None]).sum(1) / present.sum(1, keepdim=True)
    found = tower(tokens)
    assert (found - expected).abs().max() / expected.abs().max() < 1e-5


@torch.inference_mode()
def test_padding_and_company_change_nothing(
    state: dict[str, torch.Tensor], tokens: torch.Tensor
) -> None:
    tower = BertTower().eval()
    tower.load_state_dict({k: state[k] for k in tower.state_dict()})
    alone = tower(tokens[1:2, :8])  # "dog" with little padding, and no neighbours
    assert torch.allclose(alone, tower(tokens)[1:2], atol=1e-6)


def test_read_with_its_tokenizer_and_scale(minilm_checkpoint: Path) -> None:
    source = read_text(read_checkpoint(minilm_checkpoint))
    assert source.config == MINILM_L6
    assert source.logit_scale == BERT_LOGIT_SCALE
    assert source.tokenizer == minilm_checkpoint.with_name("tokenizer.json").read_bytes()


def test_a_lone_weights_file_is_refused(minilm_checkpoint: Path, tmp_path: Path) -> None:
    lone = tmp_path / "model.safetensors"
    lone.write_bytes(minilm_checkpoint.read_bytes())
    with pytest.raises(CheckpointError, match=r"config\.json.*tokenizer\.json"):
        read_text(read_checkpoint(lone))
