import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import samclip
from samclip.errors import CheckpointError, ExportError, ParityError
from samclip.export import graphs, verification
from samclip.export.exporter import Export, export_bundle
from samclip.export.graphs import GraphSpec
from samclip.export.options import (
    LOWERINGS_BY_BACKEND,
    ExportOptions,
    backends_for,
    parse_attention,
)
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.pixels.image import photo_paths

SIZE = 256


@pytest.fixture(scope="module")
def options(
    mobile_sam_checkpoint: Path, text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportOptions:
    return ExportOptions(
        checkpoint=mobile_sam_checkpoint,
        text_checkpoint=text_checkpoint,
        output=tmp_path_factory.mktemp("exports") / "bundle",
        image_size=SIZE,
        attention=("chunk", "bias", "fold"),
        templates="simple",
        labels=("cat", "dog", "Straße"),
    )


@pytest.fixture(scope="module")
def export(options: ExportOptions) -> Export:
    return export_bundle(options)


def test_writes_four_graphs_under_conventional_names(export: Export) -> None:
    graphs = export.manifest.graphs
    assert graphs.clip_head is not None
    assert graphs.text_encoder is not None
    shapes = {
        spec.name: spec.shape
        for graph in (graphs.encoder, graphs.clip_head, graphs.mask_decoder, graphs.text_encoder)
        for spec in (*graph.inputs, *graph.outputs)
    }
    grid = SIZE // 16
    assert shapes == {
        "image": (1, 3, SIZE, SIZE),
        "backbone_features": (1, 320, grid, grid),
        "token_mask": (1, grid, grid),
        "image_embed": (1, 48),
        "patch_embeds": (1, 48, grid, grid),
        "image_embeddings": (1, 256, grid, grid),
        "point_coords": ("prompts", "points", 2),
        "point_labels": ("prompts", "points"),
        "mask_input": ("prompts", 1, 4 * grid, 4 * grid),
        "has_mask_input": ("prompts",),
        "iou_predictions": ("prompts", 4),
        "low_res_masks": ("prompts", 4, 4 * grid, 4 * grid),
        "tokens": ("texts", 77),
        "text_embeddings": ("texts", 48),
    }


def test_parity_is_measured_on_every_output_and_photo(export: Export) -> None:
    rows = export.manifest.parity
    assert all(row.max_rel_error <= row.tolerance == 1e-4 for row in rows)
    exact = {row.graph for row in rows if row.max_rel_error == 0}
    assert exact <= {"image_keys"}  # a few products, which torch sums in the same order
    photos = {row.image for row in rows if row.graph == "encoder"}
    assert photos == {"astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg"}
    checked = {(row.graph, row.variant, row.output) for row in rows}
    assert {v for g, v, _ in checked if g == "clip_head"} == {"chunk", "bias", "fold"}
    assert {o for g, _, o in checked if g == "mask_decoder"} == {"iou_predictions", "low_res_masks"}
    assert ("text_encoder", "fp32", "text_embeddings") in checked


def test_the_bundle_on_disk_is_what_was_reported(export: Export) -> None:
    bundle = Bundle.open(export.path)
    bundle.verify()
    assert bundle.manifest.parity == export.manifest.parity
    assert bundle.manifest.clip_head is not None
    assert not bundle.manifest.clip_head.trained
    assert "never trained" in bundle.manifest.provenance.notes


def test_variants_share_one_weights_file_and_split_the_backends(export: Export) -> None:
    head = export.manifest.graphs.clip_head
    assert head is not None
    assert {v.weights for v in head.variants} == {"clip_head.safetensors"}
    assert [v.file for v in head.variants] == [
        "clip_head.onnx",
        "clip_head.bias.onnx",
        "clip_head.fold.onnx",
    ]
    assert head.variants[0].backends == ("onnxruntime", "openvino")
    assert head.variants[1].backends == ("cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt")
    sizes = {name: file.size for name, file in export.manifest.files.items()}
    assert all(sizes[v.file] * 5 < sizes["clip_head.safetensors"] for v in head.variants)


def test_the_files_are_plain_onnx_with_external_data(export: Export) -> None:
    for file in export.path.glob("*.onnx"):
        onnx.checker.check_model(str(file))  # resolves the external data in its folder
        model = onnx.load(str(file))
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"OneHot", "BatchNormalization", "If", "Loop", "NonZero"}
        assert "LayerNormalization" in operators or file.stem == "image_keys"
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_labels_travel_as_unit_vectors(export: Export) -> None:
    bundle = Bundle.open(export.path)
    text = bundle.manifest.text
    assert text is not None
    assert text.labels is not None
    assert text.label_embeddings is not None
    assert json.loads(bundle.read(text.labels)) == ["cat", "dog", "Straße"]
    rows = np.frombuffer(bundle.read(text.label_embeddings), "<f4").reshape(3, 48)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert text.logit_scale == pytest.approx(20.0855, rel=1e-5)


def test_an_existing_bundle_is_kept_unless_told(export: Export, options: ExportOptions) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in export.path.iterdir()}
    with pytest.raises(ExportError, match="overwrite it on purpose"):
        export_bundle(options)
    assert before == {p.name: p.stat().st_mtime_ns for p in export.path.iterdir()}


def test_a_failed_gate_leaves_no_bundle(
    options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "TOLERANCE", 1e-9)
    strict = replace(options, output=tmp_path / "strict", attention=("chunk",))
    with pytest.raises(ParityError, match=r"encoder \(chunk\) image_embeddings"):
        export_bundle(strict)
    assert not list(tmp_path.iterdir())


def test_a_wrong_graph_fails_the_gate(
    options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that computes something slightly else is caught, by how much it matters."""
    original = graphs.export_graph

    def damaged(spec: GraphSpec, opset: int) -> ir.Model:
        model = original(spec, opset)
        if spec.name == "mask_decoder":
            (bias,) = (
                value
                for name, value in model.graph.initializers.items()
                if name.endswith("iou_prediction_head.layers.2.bias")
            )
            assert bias.const_value is not None
            bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.01))
        return model

    monkeypatch.setattr(graphs, "export_graph", damaged)
    wrong = replace(options, output=tmp_path / "wrong", attention=("chunk",))
    with pytest.raises(ParityError, match="iou_predictions"):
        export_bundle(wrong)
    assert not list(tmp_path.iterdir())


def test_labels_without_any_text_tower(options: ExportOptions, tmp_path: Path) -> None:
    without = replace(options, text_checkpoint=None, output=tmp_path / "b", verify=False)
    with pytest.raises(ExportError, match="--vocabulary needs a text tower"):
        export_bundle(without)


def test_a_mask_upscaler_is_written_and_proven_when_asked_for(
    options: ExportOptions, export: Export, tmp_path: Path
) -> None:
    assert export.manifest.graphs.mask_upscaler is None
    lean = replace(options, output=tmp_path / "b", text_encoder=False, attention=("chunk",))
    made = export_bundle(replace(lean, labels=(), mask_upscaler=True))
    graph = made.manifest.graphs.mask_upscaler
    assert graph is not None
    assert {"onnxruntime", "openvino", "tensorrt"} <= set(graph.variants[0].backends)
    rows = [row for row in made.manifest.parity if row.graph == "mask_upscaler"]
    assert {row.image for row in rows} == {path.name for path in photo_paths()}
    with samclip.load(made.path, "onnxruntime") as model:
        masks = model.encode(photo_paths()[0]).segment_on_device(points=[(200, 200)])
        assert masks[0].shape == masks.size == (512, 512)


def test_a_bundle_may_leave_the_text_tower_at_home(options: ExportOptions, tmp_path: Path) -> None:
    lean = replace(options, output=tmp_path / "lean", text_encoder=False, verify=False)
    manifest = export_bundle(replace(lean, attention=("chunk",))).manifest
    assert manifest.graphs.text_encoder is None
    assert manifest.text is not None
    assert manifest.text.tokenizer is None
    assert manifest.text.labels == "labels.json"


def test_missing_checkpoints_and_photos(options: ExportOptions, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        export_bundle(replace(options, checkpoint=tmp_path / "no.pt", output=tmp_path / "b"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="no images"):
        export_bundle(replace(options, photos=tmp_path / "empty", output=tmp_path / "b"))


def test_targets_that_cannot_be_written_are_told_at_once(
    options: ExportOptions, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    absent = replace(options, checkpoint=tmp_path / "unread.pt", overwrite=True)
    for target in (tmp_path / "file", tmp_path / "full", tmp_path / "file" / "b"):
        with pytest.raises(ExportError):
            export_bundle(replace(absent, output=target))


def test_every_backend_gets_exactly_one_lowering() -> None:
    forms = ("fold", "bias")
    served = [backend for form in forms for backend in backends_for(form, forms)]
    assert sorted(served) == sorted(LOWERINGS_BY_BACKEND)


def test_attention_names() -> None:
    assert parse_attention(None) == ("chunk", "wide")
    assert parse_attention(["bias", "chunk", "bias"]) == ("bias", "chunk")
    with pytest.raises(ExportError, match=r"'flash'.*bias, fold, chunk"):
        parse_attention(["flash"])
