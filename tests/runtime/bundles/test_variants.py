from __future__ import annotations

import msgspec
import pytest
from tiny_bundle import tiny_manifest

from samclip.runtime.bundles.manifest import (
    GateRow,
    Graph,
    Manifest,
    Precision,
    Reduction,
    Variant,
    decode_manifest,
    encode_manifest,
)


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


def test_a_manifest_without_the_new_fields_is_read() -> None:
    document = msgspec.json.decode(encode_manifest(tiny_manifest()))
    del document["reductions"]
    assert decode_manifest(msgspec.json.encode(document)).reductions == ()


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
