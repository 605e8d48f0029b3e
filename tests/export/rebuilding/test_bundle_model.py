"""A bundle as a checkpoint: of every family, as it was stored, and through another export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recorded_progress import RecordedProgress
from small_ovsam import random_ovsam, small_assembly
from tiny_bundle import write_tiny_bundle

import samclip
from samclip.errors import BundleError, CheckpointError, ExportError
from samclip.export.checkpoints.metadata import METADATA_KEY, MergedMetadata
from samclip.export.exporter import Export, export_bundle
from samclip.export.families.merged_assembly import Assembly, Checkpoints, assemble, save_merged
from samclip.export.families.ovsam_assembly import save_ovsam
from samclip.export.families.read_model import read_model
from samclip.export.models import clip_head, merged, sam_vit
from samclip.export.models.merged import MergedConfig, MergedModel
from samclip.export.options import ExportOptions, WeightsDtypes
from samclip.export.rebuilding.bundle_checkpoint import find_bundle_folder, read_bundle_checkpoint
from samclip.runtime.assets import packaged_bundles
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import WeightsDtype
from samclip.runtime.pixels.image import photo_paths

TINY = packaged_bundles() / "samclip-tiny"
NAMES = ("a cup", "a spoon", "a table", "a cat", "a rocket")
BOXES = [(100.0, 50.0, 500.0, 350.0), (10.0, 20.0, 60.0, 90.0)]
SAME = 1e-5  # of the largest value: two graphs of the same weights, on one backend
pytestmark = pytest.mark.filterwarnings("ignore::samclip.errors.UntrainedHeadWarning")


def export(checkpoint: Path, output: Path, **changes: Any) -> Export:
    return export_bundle(replace(ExportOptions(checkpoint, output, verify=False), **changes))


def answers(path: Path, photos: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Whatever a bundle says of some photos."""
    found: dict[str, NDArray[Any]] = {}
    with samclip.load(path, "onnxruntime", precision="fp32") as model:
        vocabulary = model.vocabulary(NAMES)
        found["vocabulary"] = vocabulary.embeddings
        for photo in photos:
            scene = model.encode(photo)
            masks = scene.segment(boxes=BOXES, names=vocabulary)
            found[f"{photo.name} masks"] = np.asarray(masks.low_res_logits)
            found[f"{photo.name} ids"] = np.asarray(masks.class_ids)
            if model.manifest.clip_head is not None:
                shares = scene.classify(vocabulary).probabilities
                found[f"{photo.name} names"] = np.asarray(shares)
                found[f"{photo.name} order"] = np.argsort(-np.asarray(shares))
    return found


def require_same(first: Path, second: Path, photos: Sequence[Path]) -> None:
    """Names and their order equal, numbers within SAME; tokenizer and templates too."""
    one, other = answers(first, photos), answers(second, photos)
    for name, values in one.items():
        if values.dtype.kind == "i":
            np.testing.assert_array_equal(values, other[name], name)
        else:
            assert np.abs(values - other[name]).max() <= SAME * np.abs(values).max(), name
    a, b = Bundle.open(first).manifest, Bundle.open(second).manifest
    assert a.text is not None
    assert b.text is not None
    assert a.text == b.text
    assert a.files["tokenizer.json"] == b.files["tokenizer.json"]
    assert (a.head, a.preprocessing, a.model_type) == (b.head, b.preprocessing, b.model_type)
    assert b.provenance.sources[1:] == a.provenance.sources
    assert b.provenance.notes == a.provenance.notes


def test_the_shipped_bundle_is_a_checkpoint() -> None:
    """Its graphs are those of its architecture, large maps in strips or not; the weights fit it."""
    found = read_bundle_checkpoint(TINY)
    assert found.bundle.manifest.model_type == "lite2"
    assert "Inputs of" in found.bundle.manifest.provenance.notes  # of its shapes, not of the model
    said = json.loads(found.checkpoint.metadata[METADATA_KEY])["notes"]
    assert said.endswith("Not CLIP.")
    assert all(bool(tensor.isfinite().all()) for tensor in found.checkpoint.state.values())


@pytest.mark.slow
def test_samclip_tiny_answers_as_before(tmp_path: Path) -> None:
    """The shipped bundle, whose checkpoint is lost: zero differing names, and a fixed point."""
    progress = RecordedProgress()
    options = ExportOptions(TINY, tmp_path / "again", aspects=None)  # five shapes, as it has
    again = export_bundle(options, progress)
    said = next(note for note in progress.notes if note.startswith("the weights of samclip-tiny"))
    assert "are taken as stored: int8;" in said
    source = again.manifest.provenance.sources[0]
    assert source.file.startswith("samclip-tiny, a bundle, weights stored as int8")
    assert (source.role, source.license) == ("merged", "Apache-2.0")
    assert all(row.max_rel_error <= SAME for row in again.manifest.parity)
    require_same(TINY, again.path, photo_paths())
    first = read_bundle_checkpoint(TINY).checkpoint.state
    second = read_bundle_checkpoint(again.path).checkpoint.state
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        # Two numbers are inverted from an exponential; all others are copied.
        near = {"rtol": 1e-6, "atol": 1e-6} if "bias" in key or "temper" in key else {}
        torch.testing.assert_close(second[key], tensor, **(near or {"rtol": 0, "atol": 0}))


@pytest.mark.slow
def test_another_size_is_the_torch_model_at_that_size(tmp_path: Path) -> None:
    """At 512 px, INT8 stored again: every graph equals torch, which verification measures."""
    made = export_bundle(
        ExportOptions(TINY, tmp_path / "b", image_size=512, weights_dtype=WeightsDtypes("int8"))
    )
    manifest = made.manifest
    assert manifest.preprocessing.image_size == 512
    assert {row.graph for row in manifest.parity} == {
        *("encoder", "clip_head", "mask_decoder", "text_encoder"),
        *("image_keys", "point_decoder"),
    }
    assert all(row.max_rel_error <= row.tolerance for row in manifest.parity)
    assert manifest.text is not None
    assert manifest.text.space == Bundle.open(TINY).manifest.text.space  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_stitched_model_with_a_clip_tower_and_labels(
    lite2_checkpoint: Path, tmp_path: Path
) -> None:
    dtype = WeightsDtypes("fp16")
    first = export(lite2_checkpoint, tmp_path / "a", weights_dtype=dtype, labels=("cup", "cat"))
    second = export(first.path, tmp_path / "b", verify=True)
    require_same(first.path, second.path, photo_paths()[2:3])
    for file in ("labels.json", "label_embeddings.f32"):
        assert first.manifest.files[file] == second.manifest.files[file]


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["fp32", "int8"])
def test_a_bundle_whose_first_shape_is_no_square(
    stored: WeightsDtype, lite2_checkpoint: Path, tmp_path: Path
) -> None:
    """What its decoder holds of the padding is taken as stored, like the weights."""
    shape: dict[str, Any] = {"canvas": (192, 256), "image_size": 256}
    dtypes = WeightsDtypes(stored)
    first = export(lite2_checkpoint, tmp_path / "a", weights_dtype=dtypes, **shape)
    second = export(first.path, tmp_path / "b", verify=True, **shape)
    assert second.manifest.canvases == ((192, 256),)
    require_same(first.path, second.path, photo_paths()[2:3])


@pytest.mark.slow
def test_an_open_vocabulary_sam(tmp_path: Path) -> None:
    file = save_ovsam(small_assembly(random_ovsam(with_text=True)), tmp_path / "small.safetensors")
    first = export(file, tmp_path / "a")
    second = export(first.path, tmp_path / "b", verify=True)
    require_same(first.path, second.path, photo_paths()[2:3])


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["chunk", "bias", "fold"])
def test_a_vit_with_positions(
    attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative positions, which the exporter spreads over a matrix, come back as tables."""
    config = sam_vit.SamVitConfig(768, 2, 12, (1,))
    configs: Mapping[str, Any] = MappingProxyType({"vit_b": config})
    for module in (sam_vit, clip_head, merged):
        monkeypatch.setattr(module, "SAM_VIT_CONFIGS", configs)
    torch.manual_seed(0)
    model = MergedModel(MergedConfig("vit_b", image_size=256, embed_dim=32)).eval()
    for name, parameter in model.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    metadata = MergedMetadata(model_type="vit_b", image_size=256, embed_dim=32, head_trained=True)
    file = save_merged(Assembly(model, metadata), tmp_path / "vit.safetensors")
    other = attention == "chunk"  # the other form of input, and a graph that has no weights
    first = export(
        file, tmp_path / "a", attention=(attention,), uint8_input=other, mask_upscaler=other
    )
    state = read_bundle_checkpoint(first.path).checkpoint.state
    found = assemble(Checkpoints(file)).model.state_dict()
    assert state.keys() == found.keys()
    unread = [key for key in found if "cross_attn_token_to_image.k_proj.bias" in key]
    unread += [key for key in found if "final_attn_token_to_image.k_proj.bias" in key]
    for key, tensor in found.items():
        if key not in unread:  # softmax takes them out again
            torch.testing.assert_close(state[key], tensor, rtol=0, atol=0, msg=key)


def test_bundles_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    assert find_bundle_folder("samclip-tiny") == TINY
    assert find_bundle_folder(TINY) == TINY
    assert find_bundle_folder(tmp_path) is None
    assert find_bundle_folder(tmp_path / "sam.pth") is None


def test_damaged_and_foreign_bundles_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(TINY, damaged)
    weights = damaged / "encoder.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match=r"encoder\.safetensors"):
        read_model(ExportOptions(damaged, tmp_path / "out"))
    (damaged / "manifest.json").unlink()
    with pytest.raises(BundleError, match="not a complete bundle"):
        read_model(ExportOptions(damaged, tmp_path / "out"))
    foreign = write_tiny_bundle(tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="its model type 'test' is not one"):
        read_model(ExportOptions(foreign, tmp_path / "out"))
    renamed = write_tiny_bundle(tmp_path / "renamed", model_type="vit_t")
    with pytest.raises(CheckpointError, match="Give the checkpoint"):
        read_model(ExportOptions(renamed, tmp_path / "out"))


def test_a_bundle_is_neither_a_part_nor_its_own_copy(
    mobile_sam_checkpoint: Path, tmp_path: Path
) -> None:
    options = ExportOptions(mobile_sam_checkpoint, tmp_path / "b", text_checkpoint=TINY)
    with pytest.raises(CheckpointError, match="give it as --checkpoint"):
        read_model(options)
    own = tmp_path / "own"
    shutil.copytree(TINY, own)
    with pytest.raises(ExportError, match="is the bundle to export from"):
        export_bundle(ExportOptions(own, own, overwrite=True))
