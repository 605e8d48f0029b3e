"""transformers' SamModel read as SAM: the same results, and what differs from SAM refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_transformers_sam import MASKS, PROMPTS, VISION, rename
from safetensors.torch import save_file
from torch import Tensor

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import Checkpoint, read_checkpoint
from samclip.export.checkpoints.hugging_face_sam import GAUSSIAN, as_segment_anything
from samclip.export.models.mask_decoder import SamMaskDecoder
from samclip.export.models.prompt_encoder import PromptEncoder
from samclip.export.models.sam_vit import SAM_VIT_CONFIGS, SamVit

CONFIG = {
    "model_type": "sam",
    "vision_config": {"global_attn_indexes": [2, 5, 8, 11], "num_attention_heads": 12},
}


def sam_weights() -> dict[str, Tensor]:
    """A ViT-B of two blocks at 64 px under segment-anything's names, with its decoder."""
    torch.manual_seed(0)
    parts = {
        "image_encoder": SamVit(replace(SAM_VIT_CONFIGS["vit_b"], depth=2), 64),
        "prompt_encoder": PromptEncoder(64),
        "mask_decoder": SamMaskDecoder(),
    }
    return {f"{part}.{k}": v for part, m in parts.items() for k, v in m.state_dict().items()}


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of `SamModel`, which the reference's rules give."""
    found: dict[str, Tensor] = {}
    for part, theirs, rules in (
        ("image_encoder.", "vision_encoder.", VISION),
        ("prompt_encoder.", "prompt_encoder.", PROMPTS),
        ("mask_decoder.", "mask_decoder.", MASKS),
    ):
        own = {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        found |= {theirs + key: value for key, value in rename(own, rules).items()}
    found["shared_image_embedding.positional_embedding"] = state[GAUSSIAN]
    return {key: value.clone() for key, value in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(hugging_face(sam_weights()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    return tmp_path


def test_the_weights_are_segment_anythings(folder: Path) -> None:
    found, expected = as_segment_anything(read_checkpoint(folder)).state, sam_weights()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_names_are_those_that_transformers_itself_writes(folder: Path) -> None:
    """The rules of the reference are checked against the library's module, its names and shapes."""
    from transformers import SamConfig, SamModel, SamVisionConfig

    vision = SamVisionConfig(num_hidden_layers=2, image_size=64, num_pos_feats=128)
    with torch.device("meta"):
        theirs = SamModel(SamConfig(vision_config=vision.to_dict())).state_dict()
    ours = read_checkpoint(folder).state
    assert ours.keys() == theirs.keys()
    assert all(ours[key].shape == theirs[key].shape for key in ours if "rel_pos" not in key)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"vision_config": {"num_attention_heads": 8}}, "num_attention_heads = 8"),
        ("config.json", {"vision_config": {"use_rel_pos": False}}, "use_rel_pos = False"),
        ("config.json", {"vision_config": {"global_attn_indexes": [1]}}, "global_attn_indexes"),
        ("config.json", {"mask_decoder_config": {"num_attention_heads": 4}}, "attention_heads = 4"),
        ("config.json", {"model_type": "sam_hq"}, "model_type = 'sam_hq'.*segment-anything"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, r"image_mean = \[0.5"),
    ],
)
def test_what_differs_from_sam_is_refused(
    file: str, content: dict[str, Any], message: str, folder: Path
) -> None:
    (folder / file).write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        as_segment_anything(read_checkpoint(folder))


def test_other_sizes_are_named_as_hugging_faces(tmp_path: Path) -> None:
    state = {"vision_encoder.pos_embed": torch.zeros(1, 4, 4, 64), "mask_decoder.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"SamModel in Hugging Face's format.*width 64"):
        as_segment_anything(Checkpoint(tmp_path / "model.safetensors", "0" * 64, state))
