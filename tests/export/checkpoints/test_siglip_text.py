"""SigLIP's and CLIP's text towers in the folders that transformers saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.checkpoints.text_source import has_text, read_text
from samclip.export.models.merged import build_text_tower
from samclip.export.models.siglip_tower import SiglipTowerConfig
from samclip.export.models.text_tower import TextTowerConfig
from tests.support.made_siglip import gemma_like_json, save_siglip

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
SETTINGS = "tokenizer_config.json"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("siglip")
    save_siglip(made)
    return made


def copied(folder: Path, target: Path) -> Path:
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@torch.inference_mode()
def test_whole_models_shards_and_towers_alone_give_one_space(folder: Path, tmp_path: Path) -> None:
    from transformers import SiglipTextModel

    whole = read_text(read_checkpoint(folder))
    assert isinstance(whole.config, SiglipTowerConfig)
    assert (whole.config.heads, whole.config.embed_dim) == (4, 48)
    assert whole.logit_scale == pytest.approx(109.947, rel=1e-5)  # e^4.7
    assert whole.model == "SigLIP text transformer 32x2 -> 48"
    assert whole.metadata.tower == whole.config
    assert whole.metadata.canonical
    assert len(whole.tokenizer) < len(gemma_like_json()) / 2  # without the spaces

    theirs = save_siglip(tmp_path / "shards", shards="40KB")
    assert len([*(tmp_path / "shards").glob("model-0*.safetensors")]) > 2
    alone = copied(folder, tmp_path)
    SiglipTextModel.from_pretrained(folder).save_pretrained(alone)
    assert has_text(read_checkpoint(alone))
    sharded, single = (read_text(read_checkpoint(path)) for path in (tmp_path / "shards", alone))
    assert whole.space == sharded.space == single.space

    tower = build_text_tower(whole.config).eval()
    tower.load_state_dict(whole.state)
    tokens = torch.randint(0, whole.config.vocab_size, (3, 64))
    expected = theirs.get_text_features(input_ids=tokens).pooler_output
    assert torch.allclose(tower(tokens), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def in_json(file: str, change: Change) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text("utf-8"))
        change(content)
        (folder / file).write_text(json.dumps(content), "utf-8")

    return apply


def in_weights(change: Change) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return apply


def framed(token: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        start = {"SpecialToken": {"id": token, "type_id": 0}}
        content["post_processor"]["single"].insert(0, start)

    return change


LAYER = "text_model.encoder.layers.1"
REFUSED = {
    "no settings": (lambda folder: (folder / CONFIG).unlink(), "not both are there"),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), "not both are there"),
    "another model": (in_json(CONFIG, lambda c: c.update(model_type="clip")), "model_type"),
    "another activation": (
        in_json(CONFIG, lambda c: c["text_config"].update(hidden_act="gelu")),
        "hidden_act = 'gelu'",
    ),
    "no number of heads": (
        in_json(CONFIG, lambda c: c["text_config"].update(num_attention_heads="many")),
        "num_attention_heads = 'many'",
    ),
    "a start token": (in_json(SETTINGS, lambda c: c.update(add_bos_token=True)), "add_bos_token"),
    "padding in front": (
        in_json(SETTINGS, lambda c: c.update(padding_side="left")),
        "padding_side",
    ),
    "another frame": (in_json(TOKENIZER, framed("<bos>")), "puts <bos> and <eos> around a text"),
    "a tokenizer of SigLIP's first version": (
        in_json(TOKENIZER, lambda c: c["model"].update(type="Unigram")),
        "is not a tokenizer that SigLIP towers are read with",
    ),
    "more tokens than rows": (
        in_weights(
            lambda s: s.update(
                {k: v[:300].clone() for k, v in s.items() if k.endswith("token_embedding.weight")}
            )
        ),
        r"ids up to [\d,]+, and the tower a table of 300 tokens",
    ),
    "a missing weight": (
        in_weights(lambda s: s.pop(f"{LAYER}.mlp.fc2.bias")),
        r"lacks encoder\.layers\.1\.mlp\.fc2\.bias",
    ),
    "a further weight": (
        in_weights(lambda s: s.update({f"{LAYER}.ls1.gamma": torch.ones(32)})),
        r"also has encoder\.layers\.1\.ls1\.gamma",
    ),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_embed_wrongly_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    change(copied(folder, tmp_path))
    with pytest.raises(CheckpointError, match=said) as caught:
        read_text(read_checkpoint(tmp_path))
    assert "Give the folder of a SigLIP 2" in str(caught.value)


@pytest.mark.parametrize("shards", ["5GB", "1MB"])
def test_clip_models_of_transformers_are_read(tmp_path: Path, shards: str) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    text = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision = {**text, "image_size": 32, "patch_size": 16, "intermediate_size": 96}
    theirs = CLIPModel(
        CLIPConfig(
            text_config={**text, "intermediate_size": 256},
            vision_config=vision,
            projection_dim=48,
        )
    ).eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / WEIGHTS).exists() is (shards == "5GB")
    source = read_text(read_checkpoint(tmp_path))
    assert isinstance(source.config, TextTowerConfig)
    assert (source.config.heads, source.config.quick_gelu) == (2, True)
    tower = build_text_tower(source.config).eval()
    tower.load_state_dict(source.state)
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    tokens[:, :5] = torch.tensor([49406, 320, 1125, 2368, 49407])
    with torch.inference_mode():
        expected = theirs.get_text_features(input_ids=tokens).pooler_output
        got = tower(tokens)
    assert torch.allclose(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
