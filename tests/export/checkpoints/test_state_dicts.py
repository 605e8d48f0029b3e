"""A model's weights below the keys and prefixes that training adds."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.state_dicts import find_state

FAMILIES = {
    "SAM": ("image_encoder.blocks.0.x", "mask_decoder.x", "prompt_encoder.y.z"),
    "SamModel": ("vision_encoder.pos_embed", "shared_image_embedding.p", "mask_decoder.x"),
    "open_clip": ("token_embedding.weight", "positional_embedding", "transformer.resblocks.0.w"),
    "CLIP": ("visual.conv1.weight", "text.token_embedding.weight", "text.ln_final.bias"),
    "Hugging Face": ("text_model.final_layer_norm.bias", "text_projection.weight", "logit_scale"),
    "BERT": ("embeddings.word_embeddings.weight", "encoder.layer.0.x", "pooler.dense.bias"),
    "EfficientNet": ("_conv_stem.weight", "_blocks.0._bn0.bias", "_fc.weight", "_bn0.bias"),
    "neck": ("neck_student.pos_embed", "neck_student.layers.0.w"),
}
PREFIXES = ("", "module.", "_orig_mod.", "model.", "sam.", "module.model.", "a.b.c.")
WRAPPERS: tuple[tuple[str, ...], ...] = (
    *((), ("state_dict",), ("model",), ("ema",), ("net",), ("params",), ("model_state",)),
    *(("model_state_dict",), ("module",), ("anything",), ("state", "model", "weights")),
)


def weights(family: str) -> dict[str, Tensor]:
    return {key: torch.full((2,), float(n)) for n, key in enumerate(FAMILIES[family])}


def nest(state: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in reversed(keys):
        state = {key: state, "epoch": 3}
    return state


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_found_below_every_key_and_prefix(family: str, tmp_path: Path) -> None:
    expected = weights(family)
    for number, (prefix, keys) in enumerate(itertools.product(PREFIXES, WRAPPERS)):
        named = {prefix + key: value for key, value in expected.items()}
        path = tmp_path / f"{number}.pth"
        torch.save(nest(named, keys), path)
        found = read_checkpoint(path).state
        assert list(found) == list(expected), (prefix, keys)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    save_file(
        {f"module.{key}": value for key, value in expected.items()}, tmp_path / "w.safetensors"
    )
    assert read_checkpoint(tmp_path / "w.safetensors").state.keys() == expected.keys()


def test_wrappers_of_parts_are_taken_off_too(tmp_path: Path) -> None:
    torch.save(
        {
            "image_encoder._orig_mod.blocks.0.x": torch.zeros(1),
            "image_encoder.blocks.1._fsdp_wrapped_module.x": torch.zeros(1),
            "mask_decoder.module.x": torch.zeros(1),
        },
        tmp_path / "w.pth",
    )
    assert list(read_checkpoint(tmp_path / "w.pth").state) == [
        "image_encoder.blocks.0.x",
        "image_encoder.blocks.1.x",
        "mask_decoder.x",
    ]


def test_parts_that_are_saved_apart_become_one(tmp_path: Path) -> None:
    parts = {"image_encoder": {"x": torch.zeros(1)}, "mask_decoder": {"x": torch.ones(1)}}
    torch.save({"state": parts}, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth").state) == ["image_encoder.x", "mask_decoder.x"]


def test_numbers_of_training_are_not_weights(tmp_path: Path) -> None:
    state = weights("SAM")
    moments = {key: value + 7 for key, value in state.items()}
    torch.save(
        {"optimizer": {"exp_avg": moments}, "model": state, "criterion.weight": torch.ones(3)},
        tmp_path / "w.pth",
    )
    found = read_checkpoint(tmp_path / "w.pth").state
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("pair", [("model", "ema"), ("student", "teacher"), ("net", "net_ema")])
def test_two_models_that_differ_are_not_chosen_between(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    one = weights("SAM")
    other = {key: value + 1 for key, value in one.items()}
    torch.save({pair[0]: one, pair[1]: {"module": other}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="several models that differ") as caught:
        read_checkpoint(tmp_path / "w.pth")
    assert all(repr(name) in str(caught.value) for name in pair)
    torch.save({pair[0]: one, pair[1]: dict(one)}, tmp_path / "same.pth")  # one model twice
    assert read_checkpoint(tmp_path / "same.pth").state.keys() == one.keys()


def test_a_text_encoder_inside_a_larger_model_is_not_taken_for_one_alone() -> None:
    """open_clip's multilingual CLIPs have a BERT, and a projection behind it."""
    keys = ("text.transformer.embeddings.word_embeddings.weight", "text.proj.weight")
    state = {key: key for key in keys}
    assert find_state(state, lambda one, other: one == other) == state
