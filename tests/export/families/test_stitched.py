from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from samclip.errors import CheckpointError, InputError
from samclip.export.checkpoints.imagenet_classes import imagenet_names
from samclip.export.checkpoints.recogniser import load_recogniser
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble
from samclip.export.families.stitched import assemble_stitched
from samclip.export.models.conse_head import ConseHead
from samclip.export.models.merged import MergedConfig, MergedModel, build_encoder
from samclip.export.models.stitched_encoder import StitchedEncoder


@pytest.fixture(scope="module")
def assembly(lite2_checkpoint: Path) -> Assembly:
    """The assembly read back from the merged file that `save_merged` wrote."""
    return assemble(Checkpoints(lite2_checkpoint))


@pytest.fixture(scope="module")
def nameless(recogniser_checkpoint: Path, mobile_sam_checkpoint: Path) -> Assembly:
    """The same parts assembled at another size, without a text tower."""
    torch.manual_seed(5)
    return assemble_stitched(recogniser_checkpoint, mobile_sam_checkpoint, image_size=128)


def test_the_file_describes_itself(assembly: Assembly) -> None:
    metadata, model = assembly.metadata, assembly.model
    assert (metadata.model_type, metadata.image_size, metadata.pyramid) == ("lite2", 256, (1, 2, 4))
    assert (metadata.mean, metadata.std) == ((127.0,) * 3, (128.0,) * 3)
    assert metadata.head_trained
    roles = [source.role for source in metadata.sources]
    assert roles == ["merged", "recogniser", "sam", "text"]
    assert isinstance(model.image_encoder, StitchedEncoder)
    assert isinstance(model.clip_head, ConseHead)
    assert (model.image_encoder.grid, model.image_encoder.backbone_grid) == (16, 8)
    assert model.clip_head.config.tokens == 8
    assert not model.training


def test_every_part_is_its_origins(
    assembly: Assembly, recogniser_checkpoint: Path, mobile_sam_checkpoint: Path
) -> None:
    own = assembly.model.state_dict()
    recogniser = load_recogniser(torch.load(recogniser_checkpoint, weights_only=True))
    sam = torch.load(mobile_sam_checkpoint, weights_only=True)
    expected = {f"image_encoder.backbone.{k}": v for k, v in recogniser.state_dict().items()}
    expected = {
        key.replace("image_encoder.backbone.head.", "clip_head.recogniser."): value
        for key, value in expected.items()
    }
    for index in (1, 2, 3):
        theirs, ours = f"image_encoder.layers.{index}.", f"image_encoder.stages.{index - 1}."
        expected |= {k.replace(theirs, ours): v for k, v in sam.items() if k.startswith(theirs)}
    kept = ("image_encoder.neck.", "prompt_encoder.", "mask_decoder.")
    expected |= {k: v for k, v in sam.items() if k.startswith(kept)}
    assert all(torch.equal(own[key], value) for key, value in expected.items())
    left = {key for key in own.keys() - expected.keys() if not key.startswith("text.")}
    assert {key.split(".")[1] for key in left} == {
        "stitch",
        "names",
        "gate",
        "level_bias",
        "patch_level_bias",
        "log_temperatures",
    }


def test_classes_have_their_names(assembly: Assembly) -> None:
    head = assembly.model.clip_head
    assert isinstance(head, ConseHead)
    assert head.names.shape == (len(imagenet_names()), 48)
    torch.testing.assert_close(head.names.mean(0), torch.zeros(48), rtol=0, atol=1e-6)
    assert head.names.norm(dim=1).min() > 0


def test_without_a_text_tower_nothing_has_a_name(nameless: Assembly) -> None:
    assert not nameless.metadata.head_trained
    assert isinstance(nameless.model.clip_head, ConseHead)
    assert not nameless.model.clip_head.names.any()
    assert [(s.role, s.license) for s in nameless.metadata.sources] == [
        ("recogniser", "Apache-2.0"),
        ("sam", "Apache-2.0"),
    ]


def test_another_size_fits_the_same_file(lite2_checkpoint: Path) -> None:
    other = assemble(Checkpoints(lite2_checkpoint), image_size=384).model
    assert other.image_encoder.backbone_grid == 12
    with pytest.raises(InputError, match=r"image_size=320 with the pyramid \(1, 2, 4\)"):
        assemble(Checkpoints(lite2_checkpoint), image_size=320)


def test_a_pooled_head_is_refused(lite2_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="head_pool=2"):
        assemble(Checkpoints(lite2_checkpoint), head_pool=2)


def test_there_is_no_lite2_that_is_only_a_sam(
    assembly: Assembly, mobile_sam_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"looks like --model-type vit_t.*merged checkpoints"):
        assemble(Checkpoints(mobile_sam_checkpoint), model_type="lite2")
    sam = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
    state = {k: v for k, v in assembly.model.state_dict().items() if k.startswith(sam)}
    save_file(state, tmp_path / "headless.safetensors")
    with pytest.raises(CheckpointError, match=r"headless\.safetensors holds no clip_head"):
        assemble(Checkpoints(tmp_path / "headless.safetensors"))


def test_only_mobile_sam_and_a_recogniser_are_stitched(
    recogniser_checkpoint: Path, mobile_sam_checkpoint: Path, lite2_checkpoint: Path
) -> None:
    with pytest.raises(CheckpointError, match="not an EfficientNet-Lite checkpoint"):
        assemble_stitched(mobile_sam_checkpoint, mobile_sam_checkpoint)
    with pytest.raises(CheckpointError, match="looks like --model-type lite2"):
        assemble_stitched(recogniser_checkpoint, lite2_checkpoint)


def test_pyramids_belong_to_stitched_encoders() -> None:
    with pytest.raises(CheckpointError, match="only lite2 has a pyramid"):
        build_encoder("vit_t", 256, (1, 2))


def test_its_head_does_not_start_from_the_encoder(assembly: Assembly) -> None:
    with pytest.raises(CheckpointError, match="assemble_stitched"):
        assembly.model.initialise_head()


def test_every_encoder_tells_the_grid_of_its_features() -> None:
    with torch.device("meta"):
        models = [
            MergedModel(MergedConfig(kind, 256, head_pool=pool))
            for kind, pool in (("vit_t", 2), ("vit_b", 1), ("lite2", 1))
        ]
    assert [model.image_encoder.backbone_grid for model in models] == [16, 16, 8]
    assert [model.clip_head.config.tokens for model in models] == [8, 16, 8]


def test_the_stitch_is_the_same_every_time(assembly: Assembly, nameless: Assembly) -> None:
    first, second = (_stitch(made) for made in (assembly, nameless))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _stitch(made: Assembly) -> list[nn.Parameter]:
    assert isinstance(made.model.image_encoder, StitchedEncoder)
    return list(made.model.image_encoder.stitch.parameters())
