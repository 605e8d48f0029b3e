"""SigLIP's text tower against transformers' on random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samclip.errors import CheckpointError
from samclip.export.models.siglip_tower import (
    SIGLIP2_GIANT,
    SiglipTower,
    infer_siglip_config,
)
from tests.support.made_siglip import save_siglip

TOLERANCE = 1e-5  # of the largest number of an embedding, float32


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
def test_equals_transformers_with_a_head_wider_than_the_tower(tmp_path: Path) -> None:
    theirs = save_siglip(tmp_path)
    state = {
        key.removeprefix("text_model."): value
        for key, value in theirs.state_dict().items()
        if key.startswith("text_model.")
    }
    config = infer_siglip_config(state, heads=4)
    assert (config.width, config.embed_dim, config.layers, config.hidden) == (32, 48, 2, 56)
    own = SiglipTower(config)
    own.load_state_dict(state)
    tokens = torch.randint(0, config.vocab_size, (5, 64))
    tokens[1:4, 9:] = 0  # padding counts, as in training
    expected = theirs.get_text_features(input_ids=tokens).pooler_output
    got = own.eval()(tokens)
    assert got.shape == (5, 48)
    assert relative_error(got, expected) < TOLERANCE
    moved = tokens.clone()
    moved[0, 40] = (tokens[0, 40] + 1) % config.vocab_size
    assert relative_error(own(moved), got) > 100 * TOLERANCE  # no token goes unread
    with pytest.raises(CheckpointError, match="7 attention heads do not divide a width of 32"):
        infer_siglip_config(state, heads=7)
    del state["head.weight"]
    with pytest.raises(CheckpointError, match=r"head\.weight of two axes, and not all"):
        infer_siglip_config(state, heads=4)


@pytest.mark.slow
@torch.inference_mode()
def test_full_size_equals_transformers() -> None:
    """Both share one set of 0.7 billion weights: 2.8 GB."""
    from transformers import SiglipTextConfig, SiglipTextModel

    with torch.device("meta"):
        own = SiglipTower(SIGLIP2_GIANT)
        sizes = {"hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27}
        sizes |= {"intermediate_size": 4304, "projection_size": 1536, "vocab_size": 256_000}
        theirs = SiglipTextModel(SiglipTextConfig(**sizes))
    draw = torch.Generator().manual_seed(3)
    state = {
        key: torch.empty(value.shape).normal_(0, 0.02, generator=draw)
        for key, value in own.state_dict().items()
    }
    for key in state:
        if "norm" in key and key.endswith("weight"):
            state[key] += 1
    assert sum(value.numel() for value in state.values()) == 708_225_648
    own.load_state_dict(state, assign=True)
    theirs.load_state_dict(state, assign=True)
    theirs.position_ids = None
    theirs.embeddings.position_ids = torch.arange(64)[None]
    tokens = torch.zeros(2, 64, dtype=torch.int64)
    tokens[:, :9] = torch.randint(4, 256_000, (2, 9), generator=draw)
    got, expected = own.eval()(tokens), theirs.eval()(input_ids=tokens).pooler_output
    assert got.shape == (2, 1536)
    assert relative_error(got, expected) < TOLERANCE
