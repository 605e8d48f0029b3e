"""Whole exports in reduced precision, of real weights at a small image size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import samclip
from samclip.errors import BackendUnavailableError
from samclip.export.exporter import export_bundle
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.runtime.assets import packaged_photos
from samclip.runtime.bundles.manifest import Reduction

pytestmark = pytest.mark.slow  # emulated half precision takes a minute or so

GAIN = 2.0**16  # of one channel: its values are some units large


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of photos: to calibrate on, and held back."""
    folders = (tmp_path_factory.mktemp("calib"), tmp_path_factory.mktemp("held"))
    names = (("chelsea.jpg", "rocket.jpg"), ("astronaut.jpg", "coffee.jpg"))
    for folder, own in zip(folders, names, strict=True):
        for name in own:
            (folder / name).write_bytes((packaged_photos() / name).read_bytes())
    return folders


@pytest.fixture(scope="module")
def checkpoint(
    recogniser_checkpoint: Path,
    mobile_sam_checkpoint: Path,
    minilm_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A merged `lite2` of real weights at 256 px, its stitch random: names are real."""
    from samclip.export.families.merged_assembly import save_merged
    from samclip.export.families.stitched import assemble_stitched

    made = assemble_stitched(
        recogniser_checkpoint, mobile_sam_checkpoint, minilm_checkpoint, image_size=256
    )
    return save_merged(made, tmp_path_factory.mktemp("named") / "lite2.safetensors")


def _scaled_up(checkpoint: Path, target: Path) -> Path:
    """Make one channel between two convolutions GAIN times larger; the model computes the same."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(checkpoint, "np") as stored:
        tensors = {key: stored.get_tensor(key) for key in list(stored.keys())}
        metadata = stored.metadata()
    blocks = "image_encoder.backbone.blocks"
    for name in ("weight", "bias"):
        tensors[f"{blocks}.0.project.bn.{name}"][3] *= np.float32(GAIN)
    tensors[f"{blocks}.1.expand.c.weight"][:, 3] /= np.float32(GAIN)
    save_file(tensors, target, metadata)
    return target


def _options(
    checkpoint: Path, output: Path, photos: tuple[Path, Path], precision: PrecisionOptions
) -> ExportOptions:
    return ExportOptions(
        checkpoint, output, precision=precision, templates="none", photos=photos[1]
    )


def _measures(record: Reduction) -> set[str]:
    return {row.measure for row in record.gates}


def test_fp16_and_int8_of_one_checkpoint(
    checkpoint: Path, photos: tuple[Path, Path], tmp_path: Path
) -> None:
    precision = PrecisionOptions(("int8_fp16", "fp16", "int8"), calib=photos[0])
    manifest = export_bundle(_options(checkpoint, tmp_path / "b", photos, precision)).manifest
    assert [v.file for v in manifest.graphs.encoder.variants] == [
        "encoder.int8_fp16.onnx",
        "encoder.fp16.onnx",
        "encoder.int8.onnx",
        "encoder.onnx",
    ]
    assert all(row.passed for record in manifest.reductions for row in record.gates)
    assert all("semantic_agreement" in _measures(record) for record in manifest.reductions)
    # its stitch is random: the decoder has no mask that it is sure of, and the record says so
    assert all("masks are not judged" in record.skipped[0] for record in manifest.reductions)
    assert {v.precision for v in manifest.graphs.mask_decoder.variants} == {"fp32"}
    photo = photos[1] / "coffee.jpg"
    answers = {}
    for asked in (None, "fp32"):
        with samclip.load(tmp_path / "b", "onnxruntime", precision=asked) as model:
            answers[asked] = model.encode(photo).image_embeddings
    assert not np.array_equal(answers[None], answers["fp32"])  # INT8 is this backend's choice
    with pytest.raises(BackendUnavailableError, match="onnxruntime in fp16"):
        samclip.load(tmp_path / "b", "onnxruntime", precision="fp16")


def test_a_channel_that_overflows_is_found_kept_and_passes(
    checkpoint: Path, tmp_path: Path
) -> None:
    scaled = _scaled_up(checkpoint, tmp_path / "scaled.safetensors")
    options = ExportOptions(
        scaled, tmp_path / "b", precision=PrecisionOptions(("fp16",)), templates="none"
    )
    (record,) = export_bundle(options).manifest.reductions
    assert record.kept
    assert {node.graph for node in record.kept} == {"encoder"}
    assert max(node.peak for node in record.kept) > 65_504
    assert all(row.passed for row in record.gates)
