from __future__ import annotations

import msgspec
import pytest
from tiny_bundle import tiny_manifest

from samclip.runtime.bundles.manifest import (
    GateRow,
    Graph,
    LibraryNeed,
    Manifest,
    Precision,
    Reduction,
    Variant,
)
from samclip.runtime.bundles.manifest_file import decode_manifest, encode_manifest
from samclip.runtime.engine_pool import passed_over_notices


def variant(precision: Precision, *backends: str) -> Variant:
    return Variant(file=f"{precision}.onnx", precision=precision, opset=20, backends=backends)


GRAPH = Graph(
    inputs=(),
    outputs=(),
    variants=(
        variant("int8_fp16", "tensorrt"),
        variant("fp16", "tensorrt", "cuda"),
        variant("int8", "onnxruntime"),
        variant("fp32", "onnxruntime", "cuda", "tensorrt"),
    ),
)


@pytest.mark.parametrize(
    ("backend", "precision", "expected"),
    [
        ("tensorrt", None, "int8_fp16"),
        ("cuda", None, "fp16"),
        ("onnxruntime", None, "int8"),
        ("tensorrt", "fp16", "fp16"),
        ("tensorrt", "int8", "int8_fp16"),  # any INT8
        ("onnxruntime", "int8", "int8"),
        ("onnxruntime", "fp32", "fp32"),
        ("tensorrt", "fp32", "fp32"),
    ],
)
def test_the_first_variant_for_backend_and_precision_is_taken(
    backend: str, precision: str | None, expected: str
) -> None:
    chosen = GRAPH.variant_for(backend, precision)
    assert chosen is not None
    assert chosen.precision == expected


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("onnxruntime", "fp16"), ("onnxruntime", "int8_fp16"), ("cuda", "bf16"), ("openvino", None)],
)
def test_no_variant_is_better_than_another_one(backend: str, precision: str | None) -> None:
    assert GRAPH.variant_for(backend, precision) is None


NEWER = msgspec.structs.replace(
    variant("fp16", "tensorrt", "cuda"),
    file="fused.onnx",
    needs=(LibraryNeed(backend="tensorrt", version="10.14"),),
)
FORMS = msgspec.structs.replace(GRAPH, variants=(NEWER, *GRAPH.variants[1:]))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("10.14", "fused.onnx"),
        ("10.14.1.48.post1", "fused.onnx"),
        ("11.4.0.106", "fused.onnx"),
        ("10.9.0", "fp16.onnx"),  # 9 < 14
        ("10.3.0", "fp16.onnx"),
        ("unknown", "fp16.onnx"),
        (None, "fp16.onnx"),
    ],
)
def test_a_variant_is_for_libraries_that_are_new_enough(version: str | None, expected: str) -> None:
    chosen = FORMS.variant_for("tensorrt", None, version)
    assert chosen is not None
    assert chosen.file == expected
    others = FORMS.variant_for("cuda", None, version)  # it needs nothing of that one
    assert others is NEWER


def test_what_a_library_is_too_old_for_is_said() -> None:
    (notice,) = passed_over_notices("encoder", FORMS, "tensorrt", None, "10.3.0")
    expected = "fused.onnx is passed over for fp16.onnx: it needs tensorrt 10.14 or newer"
    assert expected in notice
    assert notice.endswith("here is 10.3.0")
    assert passed_over_notices("encoder", FORMS, "tensorrt", None, "10.14.1") == ()
    assert passed_over_notices("encoder", FORMS, "tensorrt", "fp32", None) == ()
    assert NEWER.reader("tensorrt") == "tensorrt >= 10.14"
    assert NEWER.reader("cuda") == "cuda"


def test_a_manifest_without_the_new_fields_is_read() -> None:
    document = msgspec.json.decode(encode_manifest(tiny_manifest()))
    del document["reductions"]
    for graph in filter(None, document["graphs"].values()):
        for described in graph["variants"]:
            del described["needs"]
    read = decode_manifest(msgspec.json.encode(document))
    assert read.reductions == ()
    assert read == tiny_manifest()


def test_reductions_travel() -> None:
    row = GateRow(measure="mask_iou_worst", value=0.97, limit=0.96, samples=40)
    reduction = Reduction(precision="fp16", photos=4, gates=(row,), skipped=("no text",))
    manifest: Manifest = tiny_manifest(reductions=(reduction,))
    assert decode_manifest(encode_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    ("value", "limit", "passed"),
    [(0.96, 0.96, True), (0.95, 0.96, False), (float("nan"), 0.5, False), (0.1, None, True)],
)
def test_a_gate_row_keeps_its_limit_or_not(value: float, limit: float | None, passed: bool) -> None:
    row = GateRow(measure="mask_iou_mean", value=value, limit=limit, samples=1)
    assert row.passed is passed
