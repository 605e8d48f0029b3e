"""Shapes of input asked for, and one weights file for the graphs of all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from small_graphs import graph_files, small_graph

import samclip
from samclip.benchmarks.accuracy.instances import iou
from samclip.errors import ExportError
from samclip.export.canvases import (
    canvases_of,
    parse_aspects,
    parse_image_size,
    share_weights_files,
)
from samclip.export.exporter import export_bundle
from samclip.export.graph_files import GraphFiles
from samclip.export.options import ExportOptions, PrecisionOptions
from samclip.runtime.assets import packaged_photos
from samclip.runtime.bundles.manifest import Preprocessing
from samclip.runtime.bundles.weights import parse_weights


def model(side: int = 1024, step: int = 16, default: bool = True) -> Any:
    pixels = Preprocessing(image_size=side, mean=(0.0,) * 3, std=(1.0,) * 3)  # type: ignore[arg-type]
    shapes = SimpleNamespace(step=step, default=default)
    return SimpleNamespace(pixels=pixels, shapes=shapes, model_type="any")


def test_sizes_are_read() -> None:
    assert parse_image_size(None) == (None, None)
    assert parse_image_size("512") == (512, None)
    assert parse_image_size("576x1024") == (1024, (576, 1024))
    for wrong in ("", "576x", "576 1024", "-5", "1e3", "1x2x3"):
        with pytest.raises(ExportError, match="--imgsz"):
            parse_image_size(wrong)


def test_aspects_are_read() -> None:
    assert parse_aspects(None) is parse_aspects([]) is parse_aspects(["auto"]) is None
    assert parse_aspects(["1:1,4:3", "16:9", "4:3"]) == ("1:1", "4:3", "16:9")
    for wrong in ("4/3", "0:3", "100:1", "a:b", "4:3:2", "auto,4:3"):
        with pytest.raises(ExportError, match="--aspects"):
            parse_aspects([wrong])


@pytest.mark.parametrize(
    ("side", "step", "short"),
    [(1024, 16, (768, 576)), (1024, 32, (768, 576)), (512, 32, (384, 288)), (768, 32, (576, 448))],
)
def test_each_aspect_stands_for_its_portrait(side: int, step: int, short: tuple[int, int]) -> None:
    four, sixteen = short
    square = (side, side)
    rest = ((four, side), (side, four), (sixteen, side), (side, sixteen))
    assert canvases_of(model(side, step), None, None) == (square, *rest)
    assert canvases_of(model(side, step, default=False), None, None) == (square,)
    assert canvases_of(model(side, step), None, ()) == (square,)
    assert canvases_of(model(side, step), None, ("4:3",)) == rest[:2]
    assert canvases_of(model(side, step), rest[2], ("1:1",)) == (rest[2], square)


def test_models_of_squares_alone_refuse_others() -> None:
    plain = model()
    plain.shapes = None
    assert canvases_of(plain, None, None) == ((1024, 1024),)
    for canvas, aspects in (((576, 1024), ()), (None, ("4:3",))):
        with pytest.raises(ExportError, match="squares alone"):
            canvases_of(plain, canvas, aspects)


def graph(name: str, extra: float) -> GraphFiles:
    """A graph with two large weights, of which the second depends on `extra`."""
    weights = {
        "a.weight": np.arange(1024, dtype=np.float32).reshape(32, 32),
        "b.weight": np.full((32, 32), extra, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["h"]),
        helper.make_node("MatMul", ["h", "b.weight"], ["y"]),
    ]
    return graph_files(name, small_graph(name, nodes, {"x": (1, 32)}, {"y": (1, 32)}, weights))


def test_graphs_of_all_shapes_share_a_weights_file() -> None:
    first, second, other = graph("encoder", 1), graph("encoder-96x128", 2), graph("clip_head", 1)
    shared = share_weights_files([first, other, second])
    assert [files.name for files in shared] == ["encoder", "clip_head", "encoder-96x128"]
    assert shared[1] is other
    for files, before in zip(shared, (first, other, second), strict=True):
        (own,), (original,) = files.models().values(), before.models().values()
        for name in ("a.weight", "b.weight"):
            values = [
                model.graph.initializers[key].const_value
                for model, key in ((own, _renamed(own, name, before)), (original, name))
            ]
            assert np.array_equal(*(value.numpy() for value in values if value is not None))
    location = first.graph.variants[0].weights
    assert [files.graph.variants[0].weights for files in (shared[0], shared[2])] == [location] * 2
    assert location is not None
    assert shared[0].files[location] == shared[2].files[location]
    assert len(parse_weights(shared[0].files[location])) == 3  # a once, b for each shape


def _renamed(model: ir.Model, name: str, before: GraphFiles) -> str:
    """Find a weight by its place, since one whose content differs by shape has another name."""
    (original,) = before.models().values()
    keys = list(original.graph.initializers)
    return list(model.graph.initializers)[keys.index(name)]


@pytest.mark.slow
def test_a_bundle_of_several_shapes(lite2_checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(lite2_checkpoint, tmp_path / "both", aspects=("1:1", "4:3"))
    manifest = export_bundle(options).manifest  # each shape is held to torch
    assert manifest.canvases == ((256, 256), (192, 256), (256, 192))
    rows = {row.graph for row in manifest.parity}
    assert {"encoder", "encoder-192x256", "mask_decoder-256x192", "clip_head-192x256"} <= rows
    weights = [v.weights for graph in manifest.all_graphs.values() for v in graph.variants]
    assert len({*weights}) == 4  # encoder, decoder, head, text
    photo = np.zeros((240, 320, 3), np.uint8)
    photo[60:180, 80:240] = (200, 120, 40)
    with samclip.load(tmp_path / "both", "onnxruntime") as model, model.encode(photo) as scene:
        assert scene.features.letterbox.canvas == (192, 256)
        masks = scene.segment(boxes=[70, 50, 250, 190])
        assert masks.packed.size == (240, 320)
    only = samclip.load(tmp_path / "both", "onnxruntime", aspects="4:3")
    with only as model, model.encode(photo.transpose(1, 0, 2)) as scene:
        assert scene.features.letterbox.canvas == (192, 256)
        assert scene.features.letterbox.input_size == (192, 144)


@pytest.mark.slow
def test_shapes_in_every_precision_and_form(mobile_sam_checkpoint: Path, tmp_path: Path) -> None:
    """A first shape that is no square, uint8 pixels, masks on the device, FP16, INT8, OpenVINO."""
    folders = tmp_path / "calib", tmp_path / "held"
    for folder, names in zip(folders, (("chelsea", "rocket"), ("coffee",)), strict=True):
        folder.mkdir()
        for name in names:
            source = packaged_photos() / f"{name}.jpg"
            (folder / source.name).write_bytes(source.read_bytes())
    options = ExportOptions(
        mobile_sam_checkpoint,
        tmp_path / "all",
        image_size=256,
        canvas=(192, 256),
        aspects=("1:1",),
        precision=PrecisionOptions(("fp16", "int8"), calib=folders[0]),
        uint8_input=True,
        mask_upscaler=True,
        photos=folders[1],
    )
    manifest = export_bundle(options).manifest
    assert manifest.canvases == ((192, 256), (256, 256))
    assert [row.precision for row in manifest.reductions] == ["fp16", "int8"]
    assert all(row.passed for reduction in manifest.reductions for row in reduction.gates)
    assert "Inputs of 256 x 192, 256 x 256 pixels" in manifest.provenance.notes
    for name in ("encoder", "encoder-256x256"):  # mask decoders are FP32 in every precision
        made = {variant.precision for variant in manifest.all_graphs[name].variants}
        assert made >= {"fp32", "fp16", "int8"}, name
    assert "mask_upscaler-256x256" in manifest.all_graphs
    photo = packaged_photos() / "coffee.jpg"
    boxes = [(170, 20, 410, 310)]
    sizes = ((1, 3000), (3000, 1), (1, 1), (7, 5), (400, 600), (600, 400))
    expected = None
    for backend, precision in (
        *(("onnxruntime", "fp32"), ("onnxruntime", "int8")),
        *(("openvino", "fp32"), ("openvino", "int8")),
    ):
        with samclip.load(tmp_path / "all", backend, precision=precision) as model:
            with model.encode(photo) as scene:
                found = scene.segment(boxes=boxes).masks[0]
                whole = next(iter(scene.segment_on_device(boxes=boxes))).numpy().astype(bool)
                assert iou(whole, found) > 0.98, (backend, precision)
                assert scene.features.letterbox.canvas == (192, 256)
            expected = found if expected is None else expected
            assert iou(found, expected) > (0.999 if precision == "fp32" else 0.9), backend
            for height, width in sizes:
                image = np.full((height, width, 3), 90, np.uint8)
                image[height // 2 :, width // 2 :] = (200, 30, 30)
                with model.encode(image) as scene:
                    masks = scene.segment(points=[(width / 2, height / 2)])
                    assert masks.packed.size == (height, width)
                    wide = width * 3 >= height * 4
                    assert scene.features.letterbox.canvas == ((192, 256) if wide else (256, 256))
