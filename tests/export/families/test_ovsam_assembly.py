"""Open-Vocabulary SAM from its files, and saved as our one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from published_ovsam import published_files
from safetensors.torch import save_file
from small_ovsam import SMALL_OVSAM, random_ovsam

from samclip.errors import CheckpointError
from samclip.export.checkpoints.checkpoint import read_checkpoint
from samclip.export.families.ovsam_assembly import (
    METADATA_KEY,
    OvsamAssembly,
    OvsamFiles,
    assemble_ovsam,
    is_ovsam,
    read_ovsam,
    save_ovsam,
)
from samclip.export.models.ovsam.convnext import ConvNextConfig
from samclip.export.models.ovsam.model import OvsamConfig
from samclip.export.models.text_tower import TextTowerConfig

DIM = 48  # of the fixture's text tower
CONFIG = replace(
    SMALL_OVSAM,
    backbone=replace(SMALL_OVSAM.backbone, embed_dim=DIM),
    neck=replace(SMALL_OVSAM.neck, out_channels=256),
)


@pytest.fixture(scope="module")
def assembly(mobile_sam_checkpoint: Path, text_checkpoint: Path) -> OvsamAssembly:
    files = OvsamFiles(mobile_sam_checkpoint, text=text_checkpoint)
    return assemble_ovsam(files, "ovsam", CONFIG)


def test_prompts_and_masks_start_as_sams(
    assembly: OvsamAssembly, mobile_sam_checkpoint: Path
) -> None:
    sam = read_checkpoint(mobile_sam_checkpoint)
    decoder = assembly.model.mask_decoder.state_dict()
    published = sam.part("mask_decoder.")
    assert torch.equal(decoder["mask_tokens.weight"], published["mask_tokens.weight"][:1])
    shared = "output_hypernetworks_mlps.0.layers.1.weight"
    assert torch.equal(decoder[shared], published[shared])
    prompts = assembly.model.prompt_encoder.state_dict()
    assert all(torch.equal(prompts[k], v) for k, v in sam.part("prompt_encoder.").items())


def test_a_random_backbone_neither_fades_nor_bursts(assembly: OvsamAssembly) -> None:
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        spreads = [float(level.std()) for level in assembly.model.backbone(image)]
    assert all(0.1 < spread < 10 for spread in spreads), spreads


def test_the_file_brings_back_the_model(
    assembly: OvsamAssembly, mobile_sam_checkpoint: Path, tmp_path: Path
) -> None:
    path = save_ovsam(assembly, tmp_path / "merged.safetensors")
    again = read_ovsam(path)
    said = msgspec.structs.replace(again.metadata, sources=again.metadata.sources[1:])
    assert said == assembly.metadata
    assert again.tokenizer == assembly.tokenizer
    assert again.model.config == assembly.model.config
    own, theirs = again.model.state_dict(), assembly.model.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert is_ovsam(path)
    assert not is_ovsam(mobile_sam_checkpoint)
    assert [source.role for source in again.metadata.sources] == ["merged", "sam", "text"]
    assert again.metadata.sources[0].file == "merged.safetensors"
    assert not again.metadata.head_trained


def test_assemblies_of_the_same_files_are_equal(
    assembly: OvsamAssembly, mobile_sam_checkpoint: Path, text_checkpoint: Path
) -> None:
    files = OvsamFiles(mobile_sam_checkpoint, text=text_checkpoint)
    again = assemble_ovsam(files, "ovsam", CONFIG).model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in assembly.model.state_dict().items())


def test_a_published_neck_is_taken_over(
    mobile_sam_checkpoint: Path, text_checkpoint: Path, tmp_path: Path
) -> None:
    trained = random_ovsam(CONFIG, seed=3).neck.state_dict()
    file = tmp_path / "sam2clip.safetensors"
    neck = {f"neck.{key}": tensor for key, tensor in trained.items()}
    save_file(published_files(neck)["sam2clip"], file)
    files = OvsamFiles(mobile_sam_checkpoint, text=text_checkpoint, sam2clip=file)
    made = assemble_ovsam(files, "ovsam", CONFIG)
    own = made.model.neck.state_dict()
    assert all(torch.equal(tensor, trained[key]) for key, tensor in own.items())
    assert [source.role for source in made.metadata.sources] == ["sam", "merged", "text"]


def test_another_size_resizes_positions_and_nothing_else(
    assembly: OvsamAssembly, tmp_path: Path
) -> None:
    path = save_ovsam(assembly, tmp_path / "merged.safetensors")
    again = read_ovsam(path, image_size=192)
    assert again.metadata.image_size == again.model.config.image_size == 192
    own, theirs = again.model.state_dict(), assembly.model.state_dict()
    changed = {key for key in own if own[key].shape != theirs[key].shape}
    assert {key.rpartition(".")[2] for key in changed} == {"pos_embed", "rel_pos_h", "rel_pos_w"}
    assert all(torch.equal(own[key], theirs[key]) for key in own.keys() - changed)


CONVNEXT = replace(
    CONFIG, backbone=ConvNextConfig((8, 8, 16, 24), (1, 1, 2, 1), embed_dim=DIM), image_size=64
)


@pytest.mark.parametrize("config", [CONFIG, CONVNEXT], ids=["resnet", "convnext"])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_all_published_files_make_the_model(
    config: OvsamConfig, quick_gelu: bool, mobile_sam_checkpoint: Path, tmp_path: Path
) -> None:
    tower = TextTowerConfig(width=64, heads=1, layers=1, embed_dim=DIM, quick_gelu=quick_gelu)
    config = replace(config, text_tower=tower)
    trained = random_ovsam(config, seed=4, with_text=True)
    files = OvsamFiles(mobile_sam_checkpoint)
    for name, tensors in published_files(trained.state_dict()).items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        files = replace(files, **{name: path})
    made = assemble_ovsam(files, "ovsam", config)
    own = made.model.state_dict()
    for key, tensor in trained.state_dict().items():
        if not key.startswith("prompt_encoder."):
            assert torch.equal(own[key], tensor), key
    assert made.metadata.head_trained
    assert made.model.config == config  # the activation too, which no weights tell
    assert read_ovsam(save_ovsam(made, tmp_path / "ours.safetensors")).model.config == config


def test_a_tower_of_another_space_is_refused(
    mobile_sam_checkpoint: Path, text_checkpoint: Path
) -> None:
    other: OvsamConfig = replace(CONFIG, backbone=replace(CONFIG.backbone, embed_dim=24))
    files = OvsamFiles(mobile_sam_checkpoint, text=text_checkpoint)
    with pytest.raises(CheckpointError, match="24-d embeddings and the text tower"):
        assemble_ovsam(files, "ovsam", other)
    with pytest.raises(CheckpointError, match="needs a text tower"):
        assemble_ovsam(OvsamFiles(mobile_sam_checkpoint), "ovsam", CONFIG)


def test_damaged_descriptions_are_named(assembly: OvsamAssembly, tmp_path: Path) -> None:
    bare, broken = tmp_path / "bare.safetensors", tmp_path / "broken.safetensors"
    save_file({"a": torch.zeros(1)}, bare)
    with pytest.raises(CheckpointError, match=r"no 'samclip\.ovsam' metadata"):
        read_ovsam(bare)
    said = msgspec.json.encode({"model_type": "ovsam"}).decode()
    save_file({"a": torch.zeros(1)}, broken, {METADATA_KEY: said})
    with pytest.raises(CheckpointError, match=r"metadata of broken\.safetensors cannot be read"):
        read_ovsam(broken)
