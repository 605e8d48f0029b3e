"""Files and options of an export: they become a whole model of the right family, or a message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published_ovsam import published_files
from safetensors.torch import save_file
from small_ovsam import SMALL_OVSAM, random_ovsam, small_assembly

from samclip.errors import CheckpointError
from samclip.export.families import read_model as module
from samclip.export.families.ovsam_assembly import save_ovsam
from samclip.export.families.read_model import read_model
from samclip.export.models.ovsam.model import OvsamConfig
from samclip.export.models.ovsam.roi_classifier import LOGIT_SCALE
from samclip.export.models.text_tower import TextTower, TextTowerConfig
from samclip.export.options import ExportOptions
from samclip.runtime.bundles.manifest import ClipHead, RegionHead

TYPE = "ovsam-rn50x16"
CONFIG: OvsamConfig = replace(
    SMALL_OVSAM,
    text_tower=TextTowerConfig(width=64, heads=1, layers=1, embed_dim=24, quick_gelu=True),
    neck=replace(SMALL_OVSAM.neck, out_channels=256),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_ovsam(CONFIG, with_text=True)
    folder = tmp_path_factory.mktemp("saved")
    return save_ovsam(small_assembly(model), folder / "merged.safetensors")


@pytest.fixture(scope="module")
def published(
    mobile_sam_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportOptions:
    """The four files of a small model, each under the options that takes it."""
    folder = tmp_path_factory.mktemp("published")
    options = ExportOptions(mobile_sam_checkpoint, folder / "bundle", model_type=TYPE)
    trained = random_ovsam(CONFIG, seed=4, with_text=True)
    for name, tensors in published_files(trained.state_dict()).items():
        save_file(tensors, folder / f"{name}.safetensors")
        options = replace(options, **{f"{name}_checkpoint": folder / f"{name}.safetensors"})
    return options


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVSAM_CONFIGS", {TYPE: CONFIG})


def test_a_merged_open_vocabulary_sam_is_known_by_its_header(saved: Path, tmp_path: Path) -> None:
    model = read_model(ExportOptions(saved, tmp_path / "b"))
    assert model.model_type == "ovsam"
    assert model.head == RegionHead(trained=True, embed_dim=24)
    assert model.templates == "vild"
    assert model.text is not None
    assert model.text.described.logit_scale == LOGIT_SCALE
    assert model.sources[0].role == "merged"
    assert model.sources[0].license == "Apache-2.0"
    assert [plan.name for plan in model.graphs] == [
        "encoder",
        "mask_decoder",
        "image_keys",
        "point_decoder",
        "roi_classifier",
        "clip_roi",
    ]
    same = read_model(ExportOptions(saved, tmp_path / "b", model_type="ovsam", image_size=192))
    assert same.pixels.image_size == 192


def test_a_sam_is_a_merged_model_still(mobile_sam_checkpoint: Path, tmp_path: Path) -> None:
    model = read_model(ExportOptions(mobile_sam_checkpoint, tmp_path / "b", image_size=64))
    assert isinstance(model.head, ClipHead)
    assert model.templates == "simple"
    assert model.text is None


def test_published_files_make_a_trained_model(published: ExportOptions) -> None:
    model = read_model(published)
    assert model.model_type == TYPE
    assert model.head == RegionHead(trained=True, embed_dim=24)
    assert [source.role for source in model.sources] == ["sam", "recogniser", "merged", "merged"]


def test_without_clip2sam_the_classifier_is_untrained(published: ExportOptions) -> None:
    assert not read_model(replace(published, clip2sam_checkpoint=None)).head.trained


def test_quick_gelu_reaches_the_tower_inside_clip(published: ExportOptions) -> None:
    for asked, expected in ((None, True), (False, False)):
        text = read_model(replace(published, quick_gelu=asked)).text
        assert text is not None
        assert isinstance(text.tower, TextTower)
        assert text.tower.config.quick_gelu is expected


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"clip_checkpoint": None}, ["--clip-checkpoint", "RN50x16"]),
        ({"sam2clip_checkpoint": None}, ["--sam2clip-checkpoint", "sam2clip_vith_rn50x16.pth"]),
        (
            {"sam2clip_checkpoint": None, "clip_checkpoint": None},
            ["--clip-checkpoint", "--sam2clip-checkpoint"],
        ),
        ({"head_pool": 2}, ["--head-pool", "leave it out"]),
        ({"image_size": 100}, ["image size 100", "multiple of 32"]),
        ({"image_size": 32}, ["image size 32", "64 to 4096"]),
        ({"model_type": None}, ["--sam2clip-checkpoint", "--model-type", TYPE]),
        ({"model_type": "vit_t", "sam2clip_checkpoint": None}, ["--clip2sam-checkpoint", TYPE]),
    ],
)
def test_what_is_missing_or_has_no_part_is_named(
    change: dict[str, Any], parts: list[str], published: ExportOptions
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model(replace(published, **change))
    for part in parts:
        assert part in str(caught.value)


def test_files_in_each_others_place_are_told(published: ExportOptions) -> None:
    swapped = replace(published, sam2clip_checkpoint=published.clip2sam_checkpoint)
    with pytest.raises(CheckpointError, match=r"expected the tensors of sam2clip_vith_rn50x16"):
        read_model(swapped)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"model_type": TYPE}, [f"--model-type {TYPE}", "type ovsam", "Leave the option out"]),
        ({"clip_checkpoint": Path("x.pth")}, ["--clip-checkpoint changes nothing"]),
        ({"clip2sam_checkpoint": Path("x.pth")}, ["--clip2sam-checkpoint changes nothing"]),
        ({"head_pool": 1}, ["--head-pool changes nothing"]),
        ({"image_size": 5000}, ["image size 5000"]),
    ],
)
def test_a_whole_model_takes_nothing_besides(
    change: dict[str, Any], parts: list[str], saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model(ExportOptions(saved, tmp_path / "b", **change))
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_type_lists_all(mobile_sam_checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(mobile_sam_checkpoint, tmp_path / "b", model_type="ovsam-rn51")
    with pytest.raises(CheckpointError) as caught:
        read_model(options)
    for part in ("did you mean 'ovsam-rn50'", "vit_h", "lite2", "ovsam-convnext-l", "vit_t"):
        assert part in str(caught.value)


def test_a_damaged_file_is_told_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        read_model(ExportOptions(tmp_path / "torn.safetensors", tmp_path / "b"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a SAM"):
        read_model(ExportOptions(tmp_path / "a.pt", tmp_path / "b"))
