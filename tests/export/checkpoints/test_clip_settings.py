"""What decides a text tower's embeddings and is not in its weights: read, asked for, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from samclip.errors import CheckpointError, InputWarning
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.text_source import (
    TextSource,
    clip_vocabulary,
    read_merges,
    read_text,
    require_clip_tokens,
)
from samclip.export.models.text_tower import TextTower, TextTowerConfig

OPEN_CLIP, HF = "open_clip_config.json", "config.json"
SMALL = TextTowerConfig(width=64, heads=1, layers=1, embed_dim=8, vocab_size=300)
TEXT: dict[str, Any] = {"width": 64, "layers": 1}


def text_state(config: TextTowerConfig = SMALL) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {**TextTower(config).state_dict(), "logit_scale": torch.tensor(4.6)}


def write(folder: Path, *, weights: str = "open_clip_model.safetensors", **files: object) -> Path:
    """A model's folder with a small tower of open_clip's names, and JSON files next to it."""
    folder.mkdir(exist_ok=True)
    if weights.endswith(".bin"):
        torch.save(text_state(), folder / weights)
    else:
        save_file(text_state(), folder / weights)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder


def model(quick: bool, **text: Any) -> dict[str, Any]:
    return {"model_cfg": {"embed_dim": 8, "quick_gelu": quick, "text_cfg": TEXT | text}}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    "weights",
    ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"],
)
def test_open_clips_folder_states_the_activation(quick: bool, weights: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "hub", weights=weights, open_clip_config=model(quick))
    assert read_text(read_checkpoint(folder)).config.quick_gelu is quick
    assert read_text(read_checkpoint(folder / weights)).config.quick_gelu is quick
    flat = write(tmp_path / "flat", config=model(quick)["model_cfg"])  # a model's table by itself
    assert read_text(read_checkpoint(flat)).config.quick_gelu is quick


def test_what_the_embeddings_are_depends_on_it(tmp_path: Path) -> None:
    """The right values: those of a tower that is built with the activation stated."""
    tokens = torch.tensor([[1, 5, 299, *[0] * 74]])
    for quick in (True, False):
        folder = write(tmp_path / str(quick), open_clip_config=model(quick, heads=4))
        source = read_text(read_checkpoint(folder))
        tower, right = (
            TextTower(source.config),
            TextTower(TextTowerConfig(64, 4, 1, 8, vocab_size=300, quick_gelu=quick)),
        )
        for each in (tower, right):
            each.load_state_dict({k: v for k, v in text_state().items() if k != "logit_scale"})
        assert torch.equal(tower(tokens), right(tokens))


def test_a_file_without_its_folder_asks(tmp_path: Path) -> None:
    lone = write(tmp_path) / "open_clip_model.safetensors"
    with pytest.raises(CheckpointError) as caught:
        read_text(read_checkpoint(lone))
    for part in ("--quick-gelu", "--gelu", "config.json", "open_clip_config.json", lone.name):
        assert part in str(caught.value)
    for asked in (True, False):
        assert read_text(read_checkpoint(lone), asked).config.quick_gelu is asked
        assert read_text(read_checkpoint(lone), usual=asked).config.quick_gelu is asked


def test_what_is_asked_for_wins_with_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path, open_clip_config=model(True))
    with pytest.warns(InputWarning, match=r"--gelu is used .* says --quick-gelu"):
        assert not read_text(read_checkpoint(folder), quick_gelu=False).config.quick_gelu
    assert read_text(read_checkpoint(folder), usual=False).config.quick_gelu


def test_files_that_contradict_each_other_ask(tmp_path: Path) -> None:
    both = write(
        tmp_path / "both",
        open_clip_config=model(True),
        config={"text_config": {"hidden_act": "gelu"}},
    )
    twice = write(
        tmp_path / "twice",
        config={
            "text_config": {"hidden_act": "gelu"},
            "text_config_dict": {"hidden_size": 64},  # transformers takes this, with its default
        },
    )
    for folder in (both, twice):
        with pytest.raises(CheckpointError, match="QuickGELU by one and GELU by another"):
            read_text(read_checkpoint(folder))
    same = {"text_config": {"hidden_act": "gelu"}, "text_config_dict": {"hidden_act": "gelu"}}
    assert not read_text(read_checkpoint(write(tmp_path / "s", config=same))).config.quick_gelu


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"open_clip_config": model(False, pool_type="last")}, "pool_type = 'last'"),
        ({"open_clip_config": model(False, no_causal_mask=True)}, "no_causal_mask = True"),
        ({"open_clip_config": model(False, act_kwargs={"approximate": "tanh"})}, "act_kwargs"),
        ({"open_clip_config": model(False, norm_kwargs={"eps": 1e-6})}, "norm_kwargs"),
        ({"open_clip_config": model(False, hf_tokenizer_name="x")}, "hf_tokenizer_name = 'x'"),
        (
            {"open_clip_config": model(False, tokenizer_kwargs={"clean": "canonicalize"})},
            "tokenizer_kwargs",
        ),
        ({"config": {"hidden_act": "gelu_new"}}, "hidden_act = 'gelu_new'"),
        ({"config": {"text_config": {"layer_norm_eps": 1e-6}}}, "layer_norm_eps = 1e-06"),
        ({"config": {"text_config": {"eos_token_id": 7}}}, "eos_token_id = 7"),
        ({"config": {"model_type": "siglip"}}, "model_type = 'siglip'"),
        ({"config": {"hidden_act": "gelu"}, "vocab": {"a": 0}}, "another vocabulary"),
        (
            {"config": {"hidden_act": "gelu"}, "tokenizer": {"model": {"vocab": {"a": 0}}}},
            "another vocabulary",
        ),
        ({"config": {"hidden_act": "gelu", "num_attention_heads": 3}}, "not a multiple of 3"),
        ({"config": {"hidden_act": "gelu", "num_attention_heads": "x"}}, "how many heads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_the_tower_lacks_are_refused(
    files: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=named):
        read_text(read_checkpoint(write(tmp_path, **files)))


def test_heads_are_read_and_are_part_of_the_space(tmp_path: Path) -> None:
    read: list[TextSource] = []
    for number, heads in enumerate((None, 1, 4)):
        folder = write(tmp_path / str(number), open_clip_config=model(False, heads=heads))
        read.append(read_text(read_checkpoint(folder)))
    assert [source.config.heads for source in read] == [1, 1, 4]  # type: ignore[union-attr]
    assert read[0].space == read[1].space != read[2].space


def test_clips_own_vocabulary_is_accepted_and_others_are_not(tmp_path: Path) -> None:
    vocabulary = clip_vocabulary(read_merges())
    folder = write(tmp_path, config={"hidden_act": "gelu"}, vocab=vocabulary)
    source = read_text(read_checkpoint(folder))
    with pytest.raises(CheckpointError, match=r"has 300 tokens, and CLIP's tokenizer 49,408"):
        require_clip_tokens(source, "model.safetensors")


def test_a_pipe_as_settings_is_refused(tmp_path: Path) -> None:
    import os

    folder = write(tmp_path)
    os.mkfifo(folder / OPEN_CLIP)
    with pytest.raises(CheckpointError, match="is a pipe"):
        read_text(read_checkpoint(folder))
