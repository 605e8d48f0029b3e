from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from samclip.errors import CheckpointError, InputWarning
from samclip.export.checkpoints.metadata import METADATA_KEY, MergedMetadata
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble, save_merged
from samclip.export.models.text_tower import TextTower, TextTowerConfig

SMALL_TEXT = TextTowerConfig(width=64, heads=1, layers=2, embed_dim=48)


@pytest.fixture(scope="module")
def assembly(mobile_sam_checkpoint: Path, text_checkpoint: Path) -> Assembly:
    return assemble(Checkpoints(mobile_sam_checkpoint, text=text_checkpoint), image_size=256)


def test_a_sam_and_a_clip_apart(assembly: Assembly) -> None:
    metadata, model = assembly.metadata, assembly.model
    assert (metadata.model_type, metadata.image_size, metadata.embed_dim) == ("vit_t", 256, 48)
    assert not metadata.head_trained
    assert metadata.text is not None
    assert metadata.text.logit_scale == pytest.approx(20.0855, rel=1e-5)  # e^3
    assert [(s.role, s.file) for s in metadata.sources] == [
        ("sam", "mobile_sam.pt"),
        ("text", "text.pt"),
    ]
    assert metadata.sources[0].license == "Apache-2.0"
    assert model.text is not None
    assert not model.training


def test_every_weight_is_the_checkpoints(assembly: Assembly, mobile_sam_checkpoint: Path) -> None:
    state = torch.load(mobile_sam_checkpoint, weights_only=True)
    own = assembly.model.state_dict()
    shared = [key for key in own if not key.startswith(("clip_head.", "text."))]
    assert shared
    assert all(torch.equal(own[key], state[key]) for key in shared)


def test_an_untrained_head_is_the_same_every_time(
    assembly: Assembly, mobile_sam_checkpoint: Path, text_checkpoint: Path
) -> None:
    again = assemble(Checkpoints(mobile_sam_checkpoint, text=text_checkpoint), image_size=256)
    first, second = (a.model.clip_head.state_dict() for a in (assembly, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_merged_checkpoint_comes_back_whole(assembly: Assembly, tmp_path: Path) -> None:
    metadata = msgspec.structs.replace(assembly.metadata, head_trained=True, license="MIT")
    path = save_merged(replace(assembly, metadata=metadata), tmp_path / "merged.safetensors")
    back = assemble(Checkpoints(path))
    assert back.metadata.head_trained
    assert back.metadata.license == "MIT"
    assert [s.role for s in back.metadata.sources] == ["merged", "sam", "text"]
    assert back.metadata.sources[1:] == assembly.metadata.sources
    assert back.metadata.text == assembly.metadata.text
    assert back.tokenizer == assembly.tokenizer
    before, after = assembly.model.state_dict(), back.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [p.name for p in tmp_path.iterdir()] == ["merged.safetensors"]


def test_a_merged_checkpoint_at_another_size_and_pooling(
    assembly: Assembly, tmp_path: Path
) -> None:
    path = save_merged(assembly, tmp_path / "merged.safetensors")
    other = assemble(Checkpoints(path), image_size=512, head_pool=2)
    assert other.model.config.grid == 32
    features, mask = torch.rand(1, 320, 32, 32), torch.ones(1, 16, 16)
    with torch.inference_mode():
        assert other.model.clip_head(features, mask)[1].shape == (1, 48, 16, 16)


def test_a_trained_head_refuses_another_text_space(assembly: Assembly, tmp_path: Path) -> None:
    trained = msgspec.structs.replace(assembly.metadata, head_trained=True)
    merged = save_merged(replace(assembly, metadata=trained), tmp_path / "merged.safetensors")
    torch.manual_seed(2)
    other = {**TextTower(SMALL_TEXT).state_dict(), "logit_scale": torch.tensor(3.0)}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="another text tower's space"):
        assemble(Checkpoints(merged, text=tmp_path / "other.pt"), quick_gelu=False)


def test_dimensions_of_head_and_text_must_agree(assembly: Assembly, tmp_path: Path) -> None:
    merged = save_merged(assembly, tmp_path / "merged.safetensors")
    wide = TextTowerConfig(width=64, heads=1, layers=1, embed_dim=32)
    other = {**TextTower(wide).state_dict(), "logit_scale": torch.tensor(3.0)}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"48-d.*32-d"):
        assemble(Checkpoints(merged, text=tmp_path / "other.pt"), quick_gelu=False)


def test_a_scale_that_nothing_states_is_said(mobile_sam_checkpoint: Path, tmp_path: Path) -> None:
    torch.save(TextTower(SMALL_TEXT).state_dict(), tmp_path / "tower.pt")
    with pytest.warns(InputWarning, match=r"tower\.pt has no logit_scale.*100 is taken"):
        made = assemble(
            Checkpoints(mobile_sam_checkpoint, text=tmp_path / "tower.pt"),
            image_size=64,
            quick_gelu=False,
        )
    assert made.metadata.text is not None
    assert made.metadata.text.logit_scale == 100.0


def test_the_wrong_model_type_names_the_likely_one(mobile_sam_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="--model-type vit_t"):
        assemble(Checkpoints(mobile_sam_checkpoint), model_type="vit_b")
    with pytest.raises(CheckpointError, match=r"unknown model type 'vit_x'.*vit_t"):
        assemble(Checkpoints(mobile_sam_checkpoint), model_type="vit_x")


@pytest.mark.parametrize("size", [100, 48, 5000, 0, -16])
def test_impossible_image_sizes(mobile_sam_checkpoint: Path, size: int) -> None:
    with pytest.raises(CheckpointError, match="multiple of 16"):
        assemble(Checkpoints(mobile_sam_checkpoint), image_size=size)


def test_a_partial_checkpoint_names_what_is_missing(
    mobile_sam_checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(mobile_sam_checkpoint, weights_only=True)
    state.pop("mask_decoder.iou_token.weight")
    state["mask_decoder.surprise"] = torch.zeros(1)
    torch.save(state, tmp_path / "partial.pt")
    with pytest.raises(CheckpointError) as caught:
        assemble(Checkpoints(tmp_path / "partial.pt"))
    message = str(caught.value)
    assert "mask decoder of a vit_t model" in message
    assert "missing: iou_token.weight" in message
    assert "unexpected: surprise" in message


def test_what_is_no_sam_says_so(tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(2)}, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"not a SAM.*visual\.proj"):
        assemble(Checkpoints(tmp_path / "clip.safetensors"))


def test_a_head_without_metadata_is_refused(assembly: Assembly, tmp_path: Path) -> None:
    save_file(assembly.model.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=METADATA_KEY):
        assemble(Checkpoints(tmp_path / "bare.safetensors"))


def test_unknown_metadata_fields_are_refused(assembly: Assembly, tmp_path: Path) -> None:
    content = {**msgspec.to_builtins(assembly.metadata), "from_the_future": 1}
    header = {METADATA_KEY: msgspec.json.encode(content).decode()}
    save_file(assembly.model.state_dict(), tmp_path / "new.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="from_the_future"):
        assemble(Checkpoints(tmp_path / "new.safetensors"))
    assert isinstance(assembly.metadata, MergedMetadata)


def test_minilm_brings_its_tokenizer(mobile_sam_checkpoint: Path, minilm_checkpoint: Path) -> None:
    made = assemble(Checkpoints(mobile_sam_checkpoint, text=minilm_checkpoint), image_size=256)
    assert made.metadata.embed_dim == 384
    assert made.tokenizer is not None
    assert b"WordPiece" in made.tokenizer


@pytest.mark.parametrize("tower", ["gelu", "quick_gelu", "minilm"])
def test_a_merged_checkpoint_describes_its_text_tower(
    tower: str,
    mobile_sam_checkpoint: Path,
    text_checkpoint: Path,
    minilm_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Trained or not, the tower that comes back is the one that went in, and its own space's."""
    alone = tmp_path / "alone" / "text.pt"  # nothing next to it says its activation
    alone.parent.mkdir()
    alone.symlink_to(text_checkpoint)
    text = minilm_checkpoint if tower == "minilm" else alone
    files = Checkpoints(mobile_sam_checkpoint, text=text)
    made = assemble(files, image_size=64, quick_gelu=tower == "quick_gelu")
    trained = replace(made, metadata=msgspec.structs.replace(made.metadata, head_trained=True))
    back = assemble(Checkpoints(save_merged(trained, tmp_path / "merged.safetensors")))
    assert back.metadata.text == made.metadata.text
    assert back.tokenizer == made.tokenizer
    assert back.model.config == made.model.config
    assert made.model.text is not None
    assert back.model.text is not None
    tokens = torch.randint(1, 1000, (2, made.model.text.config.context_length))
    with torch.inference_mode():
        assert torch.equal(back.model.text(tokens), made.model.text(tokens))


def test_a_tower_without_its_sizes_is_not_saved(assembly: Assembly, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(assembly.metadata, text=None)
    with pytest.raises(CheckpointError, match="text tower inside"):
        save_merged(replace(assembly, metadata=bare), tmp_path / "merged.safetensors")
    assert not list(tmp_path.iterdir())
