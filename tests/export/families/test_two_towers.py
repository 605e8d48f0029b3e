"""SAM and CLIP side by side, as an export reads them: what fits, what is refused, what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_progress import RecordedProgress
from small_ovsam import random_ovsam, small_assembly

from samclip.errors import CheckpointError, ExportError
from samclip.export import exporter
from samclip.export.cli import two_towers
from samclip.export.cli_options import ExportArguments
from samclip.export.families.ovsam_assembly import save_ovsam
from samclip.export.families.read_model import read_model
from samclip.export.options import ExportOptions, TwoTowers
from samclip.runtime.bundles.manifest import ClipTower


@pytest.fixture
def options(mobile_sam_checkpoint: Path, small_clip: Path, tmp_path: Path) -> ExportOptions:
    return ExportOptions(
        mobile_sam_checkpoint,
        tmp_path / "bundle",
        clip_checkpoint=small_clip,
        image_size=256,
        two_towers=TwoTowers("crop-feature", 0.2, "masked"),
    )


def test_both_models_are_described(options: ExportOptions) -> None:
    model = read_model(options)
    head = model.head
    assert isinstance(head, ClipTower)
    assert head.trained
    assert (head.image_size, head.grid, head.embed_dim) == (32, 4, 48)
    assert (head.name_by, head.crop_margin, head.crop_background) == ("crop-feature", 0.2, "masked")
    assert head.mean == pytest.approx((122.77, 116.75, 104.09), abs=0.01)
    assert (head.resize, head.interpolation) == ("shortest_side", "pillow_bicubic")
    assert model.pixels.image_size == 256
    assert model.text is not None
    assert model.text.described.logit_scale == pytest.approx(54.598, rel=1e-4)  # e^4
    assert [graph.name for graph in model.graphs] == [
        *("encoder", "mask_decoder", "image_keys", "point_decoder", "clip_encoder")
    ]
    assert [(source.role, source.file) for source in model.sources] == [
        ("sam", "mobile_sam.pt"),
        ("text", "CLIP/open_clip_pytorch_model.bin"),
        ("recogniser", "CLIP/open_clip_pytorch_model.bin"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_checkpoint": None}, "give CLIP's checkpoint too"),
        ({"head_pool": 2}, "--head-pool is for CLIP heads"),
        ({"model_type": "ovsam-rn50"}, "its own CLIP inside"),
        ({"sam2clip_checkpoint": Path("neck.pth")}, "its own CLIP inside"),
    ],
)
def test_options_that_do_not_fit(
    options: ExportOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_model(replace(options, **change))


def test_files_that_do_not_fit(
    options: ExportOptions, text_checkpoint: Path, lite2_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"text\.pt holds no image tower"):
        read_model(replace(options, clip_checkpoint=text_checkpoint))
    with pytest.raises(CheckpointError, match="is a merged checkpoint"):
        read_model(replace(options, checkpoint=lite2_checkpoint))
    ovsam = save_ovsam(small_assembly(random_ovsam(with_text=True)), tmp_path / "o.safetensors")
    with pytest.raises(CheckpointError, match="its own CLIP inside"):
        read_model(replace(options, checkpoint=ovsam))
    assert options.clip_checkpoint is not None
    state = torch.load(options.clip_checkpoint, weights_only=True)
    state["visual.proj"] = state["visual.proj"][:, :40].clone()
    torch.save(state, tmp_path / "narrow.bin")
    narrow = replace(options, clip_checkpoint=tmp_path / "narrow.bin", quick_gelu=False)
    with pytest.raises(CheckpointError, match=r"gives 40-d embeddings and the text tower .* 48-d"):
        read_model(narrow)


def test_options_of_the_command() -> None:
    given = ExportArguments(checkpoint="sam.pth", name_by="crop-feature", crop_margin=0.5)
    with pytest.raises(ExportError, match="--name-by is for two towers; give --two-towers too"):
        two_towers(given)
    assert two_towers(replace(given, two_towers=True)) == TwoTowers("crop-feature", 0.5)
    assert two_towers(ExportArguments(checkpoint="sam.pth")) is None
    with pytest.raises(ExportError, match=r"in \[0, 10\], got -1"):
        TwoTowers(crop_margin=-1)


class StoppedError(Exception):
    """Stands for the long work, which tests of what comes before it leave out."""


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        ({"two_towers": None}, True),
        ({"two_towers": None, "text_encoder": False}, False),
        ({}, False),
    ],
)
def test_noise_is_said_before_the_work_with_the_ways_out(
    options: ExportOptions, change: dict[str, Any], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    monkeypatch.setattr(exporter, "write_graphs", stop)
    progress = RecordedProgress()
    with pytest.raises(StoppedError):
        exporter.export_bundle(replace(options, **change), progress)
    assert len(progress.notes) == warned
    for way in ("--two-towers", "samclip-merge", "--no-text-encoder") if warned else ():
        assert way in progress.notes[0]
