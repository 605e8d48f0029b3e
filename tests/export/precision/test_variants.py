from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from small_graphs import graph_files, small_graph

from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles, with_variants
from samclip.export.models.attention import Lowering
from samclip.export.options import (
    LOWERINGS_BY_BACKEND,
    ExportOptions,
    PrecisionOptions,
    backends_for,
    default_attention,
    parse_attention,
    parse_precisions,
)
from samclip.export.plan import photo_sets
from samclip.export.precision.variants import BACKENDS, in_order, reduced_variants
from samclip.runtime.bundles.manifest import Graph, ReducedPrecision, Variant


def files(name: str, *forms: Lowering) -> GraphFiles:
    variants = tuple(
        Variant(
            file=f"{name}.onnx" if form == forms[0] else f"{name}.{form}.onnx",
            weights=f"{name}.safetensors",
            attention=form,
            opset=20,
            backends=backends_for(form, forms),
        )
        for form in forms
    )
    plain = Variant(file=f"{name}.onnx", opset=20, backends=tuple(LOWERINGS_BY_BACKEND))
    return GraphFiles(name, Graph(inputs=(), outputs=(), variants=variants or (plain,)), {})


def made(graph: GraphFiles, precision: ReducedPrecision) -> dict[str, tuple[str, ...]]:
    return {variant.file: variant.backends for variant in reduced_variants(graph, precision)}


def test_gpus_take_fp16_of_their_lowering_and_cpus_int8_of_theirs() -> None:
    encoder = files("encoder", "chunk", "bias")
    assert made(encoder, "fp16") == {
        "encoder.bias.fp16.onnx": ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "cuda")
    }
    assert made(encoder, "int8") == {"encoder.int8.onnx": ("onnxruntime", "openvino")}
    assert made(encoder, "int8_fp16") == {
        "encoder.bias.int8_fp16.onnx": ("tensorrt", "tensorrt-rtx", "ort-tensorrt")
    }


def test_int8_of_cpus_is_made_of_the_narrow_chunks_alone() -> None:
    encoder = files("encoder", "chunk", "wide", "bias")
    assert [v.backends for v in encoder.graph.variants[:2]] == [("onnxruntime",), ("openvino",)]
    assert made(encoder, "int8") == {"encoder.int8.onnx": ("onnxruntime", "openvino")}
    assert list(made(encoder, "fp16")) == ["encoder.bias.fp16.onnx"]
    assert list(made(files("encoder", "wide"), "int8")) == ["encoder.int8.onnx"]


def test_one_lowering_serves_all() -> None:
    assert made(files("encoder", "chunk"), "bf16") == {"encoder.bf16.onnx": BACKENDS["bf16"]}


def test_text_and_masks_are_never_quantised() -> None:
    for name in ("text_encoder", "mask_decoder"):
        assert made(files(name), "int8") == made(files(name), "int8_fp16") == {}
        assert made(files(name), "fp16") == {f"{name}.fp16.onnx": BACKENDS["fp16"]}


def test_every_precision_names_backends_that_exist() -> None:
    assert all(set(names) <= set(LOWERINGS_BY_BACKEND) for names in BACKENDS.values())


def test_fp32_comes_last() -> None:
    variants = [
        Variant(file=f"{p}.onnx", precision=p, opset=20, backends=())
        for p in ("fp32", "int8", "fp16", "int8_fp16", "bf16")
    ]  # fmt: skip
    order = [variant.precision for variant in in_order(variants)]
    assert order == ["int8_fp16", "fp16", "bf16", "int8", "fp32"]


@pytest.mark.parametrize(
    ("given", "flags", "expected"),
    [
        (None, {}, ()),
        (["fp32"], {}, ()),
        (["fp16"], {"fp16": True}, ("fp16",)),
        (["int8"], {}, ("int8",)),
        (None, {"fp16": True, "int8": True}, ("int8_fp16", "fp16", "int8")),
        (["int8", "bf16"], {}, ("bf16", "int8")),
    ],
)
def test_precisions_as_they_are_asked_for(
    given: list[str] | None, flags: dict[str, bool], expected: tuple[str, ...]
) -> None:
    assert parse_precisions(given, **flags) == expected


def test_an_unknown_precision() -> None:
    with pytest.raises(ExportError, match=r"'fp61'.*fp16"):
        parse_precisions(["fp61"])


def test_half_precision_brings_the_lowering_of_gpus() -> None:
    assert default_attention(()) == default_attention(("int8",)) == ("chunk", "wide")
    assert parse_attention(None, ("fp16",)) == ("chunk", "wide", "bias")
    assert parse_attention(["fold"], ("fp16",)) == ("fold",)


def test_added_variants_share_the_weights_and_come_first() -> None:
    weight = np.arange(32 * 32, dtype=np.float32).reshape(32, 32)
    nodes = [helper.make_node("MatMul", ["x", "layer.weight"], ["y"])]
    shapes = {"x": ("n", 32)}, {"y": ("n", 32)}
    base = graph_files("g", small_graph("g", nodes, *shapes, {"layer.weight": weight}))
    other = [
        helper.make_node("Cast", ["layer.weight"], ["w"], to=10),
        helper.make_node("Cast", ["x"], ["h"], to=10),
        helper.make_node("MatMul", ["h", "w"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=1),
    ]
    model = small_graph("g", other, *shapes, {"layer.weight": weight})
    variant = Variant(
        file="g.fp16.onnx", weights="g.safetensors", precision="fp16", opset=1, backends=("cuda",)
    )
    extended = with_variants(base, {variant: model})
    assert [v.file for v in extended.graph.variants] == ["g.fp16.onnx", "g.0.onnx"]
    assert extended.graph.variants[0].opset == 20  # the model's own
    assert extended.files["g.safetensors"] == base.files["g.safetensors"]
    assert extended.files["g.0.onnx"] == base.files["g.0.onnx"]
    assert list(extended.models("fp16")) == ["g.fp16.onnx"]


def _photos(folder: Path, *contents: bytes) -> Path:
    folder.mkdir()
    for number, data in enumerate(contents):
        (folder / f"{number:03}.jpg").write_bytes(data)
    return folder


def _options(tmp_path: Path, precision: PrecisionOptions, photos: Path | None) -> ExportOptions:
    return ExportOptions(tmp_path / "c", tmp_path / "b", precision=precision, photos=photos)


def test_int8_needs_photos_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--calib FOLDER"):
        photo_sets(_options(tmp_path, PrecisionOptions(("int8",)), None))


def test_a_photo_cannot_calibrate_and_judge(tmp_path: Path) -> None:
    calib = _photos(tmp_path / "calib", b"one", b"two")
    judging = _photos(tmp_path / "judging", b"three", b"two")
    precision = PrecisionOptions(("int8",), calib=calib)
    with pytest.raises(ExportError, match=r"judging/001.jpg is the photo .*calib/001.jpg"):
        photo_sets(_options(tmp_path, precision, judging))


def test_calibration_photos_are_spread_over_the_folder(tmp_path: Path) -> None:
    calib = _photos(tmp_path / "calib", *(str(i).encode() for i in range(130)))
    sets = photo_sets(_options(tmp_path, PrecisionOptions(("int8",), calib=calib), None))
    chosen = [int(path.stem) for path in sets.measured]
    assert len(chosen) == 64
    assert chosen[0] == 0
    assert chosen[-1] >= 127
    assert len(sets.held_back) == 4  # those that come with the package


def test_fp16_alone_is_measured_on_the_photos_that_judge(tmp_path: Path) -> None:
    sets = photo_sets(_options(tmp_path, PrecisionOptions(("fp16",)), None))
    assert sets.measured == sets.held_back


def test_an_empty_folder_to_calibrate_on(tmp_path: Path) -> None:
    calib = _photos(tmp_path / "calib")
    with pytest.raises(ExportError, match="no images"):
        photo_sets(_options(tmp_path, PrecisionOptions(("int8",), calib=calib), None))
