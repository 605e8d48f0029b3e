"""A stitched model through the whole export: small, and as large as it is used."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import samclip
from samclip.export.exporter import Export, export_bundle
from samclip.export.families.merged_assembly import save_merged
from samclip.export.families.stitched import assemble_stitched
from samclip.export.options import ExportOptions
from samclip.runtime.assets import packaged_photos
from samclip.runtime.pixels.image import photo_paths


@pytest.fixture(scope="module")
def export(lite2_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    output = tmp_path_factory.mktemp("exports") / "lite2"
    return export_bundle(ExportOptions(lite2_checkpoint, output, templates="none"))


def test_every_graph_equals_torch(export: Export) -> None:
    rows = export.manifest.parity
    assert {row.graph for row in rows} == {
        *("encoder", "clip_head", "mask_decoder", "image_keys", "point_decoder", "text_encoder")
    }
    assert all(row.max_rel_error <= row.tolerance == 1e-4 for row in rows)


def test_the_manifest_tells_the_recognisers_grid_and_pixels(export: Export) -> None:
    manifest = export.manifest
    assert manifest.graphs.clip_head is not None
    assert manifest.clip_head is not None
    shapes = {spec.name: spec.shape for spec in manifest.graphs.clip_head.inputs}
    assert shapes == {"backbone_features": (1, 3 * 352, 8, 8), "token_mask": (1, 8, 8)}
    assert (manifest.model_type, manifest.clip_head.grid) == ("lite2", 8)
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == ((127.0,) * 3, (128.0,) * 3)


def test_graphs_hold_no_batch_norms_and_no_shape_arithmetic(export: Export) -> None:
    for name in ("encoder", "clip_head"):
        model = onnx.load(str(export.path / f"{name}.onnx"), load_external_data=False)
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"BatchNormalization", "Shape", "If", "Loop", "NonZero", "GatherND"}


def test_the_bundle_answers_every_task(export: Export) -> None:
    with samclip.load(export.path, backend="onnxruntime") as model:
        scene = model.encode(packaged_photos() / "coffee.jpg")
        assert len(scene.classify(["a cup", "a rocket"]).probabilities) == 2
        assert scene.semantic(["cup", "table"]).labels.shape == (400, 600)
        assert len(scene.segment(boxes=[(100, 50, 500, 350)], names=["cup", "cat"]).scores) == 1


@pytest.mark.slow
def test_full_size_names_what_is_in_the_photo(
    recogniser_checkpoint: Path,
    mobile_sam_checkpoint: Path,
    minilm_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """At 1024 px, with a sentence encoder: graphs equal torch, and names need no training."""
    made = assemble_stitched(recogniser_checkpoint, mobile_sam_checkpoint, minilm_checkpoint)
    merged = save_merged(made, tmp_path / "lite2.safetensors")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "coffee.jpg").write_bytes(photo_paths()[2].read_bytes())
    export = export_bundle(
        ExportOptions(merged, tmp_path / "b", templates="simple", photos=tmp_path / "photos")
    )
    assert all(row.max_rel_error <= 1e-4 for row in export.manifest.parity)
    with samclip.load(export.path, backend="onnxruntime") as model:
        found = model.encode(packaged_photos() / "coffee.jpg").classify(
            ["a cat", "a rocket", "a cup"]
        )
    assert found.probabilities.argmax() == 2
