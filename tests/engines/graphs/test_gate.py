"""The gate is on every way from a bundle's bytes to an engine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tiny_bundle import WEIGHTS_FILE, affine_model, write_tiny_bundle

import samclip
from samclip.engines.base import GraphSource
from samclip.engines.graphs.gate import check_source
from samclip.errors import GraphError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.weights import parse_weights

ROOT = Path(samclip.__file__).parent
# Who makes a source: the bundle, behind the gate; and graphs of this package's own making.
MAKERS = {
    "runtime/bundles/bundle.py",
    "engines/isolated/worker.py",  # of a source that the gate let pass
    "engines/plans/gate/child.py",  # of a source that its parent got from the bundle
    "export/graph_files.py",
    "export/cpu_engine.py",
    "triton/records.py",  # of a model repository's files, behind the gate
    "triton/front.py",  # of a graph that another model has: without bytes
    "engines/onnxruntime/precision_layers.py",  # of a literal
    "benchmarks/roofline/rates.py",
    "benchmarks/amortised/second_model.py",
}


def test_only_the_bundle_makes_sources_of_files() -> None:
    found = set()
    for file in ROOT.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "GraphSource":
                found.add(file.relative_to(ROOT).as_posix())
    assert found == MAKERS


def test_a_source_has_its_signature(tmp_path: Path) -> None:
    source = Bundle.open(write_tiny_bundle(tmp_path / "tiny")).source("encoder", "onnxruntime")
    assert source.signature is not None
    ports = (*source.signature.inputs, *source.signature.outputs)
    assert [(port.name, port.dtype, port.dims) for port in ports] == [
        ("x", "float32", ("n", 4)),
        ("y", "float32", ("n", 3)),
        ("z", "float32", ("n", 3)),
    ]
    assert source.signature.working_bytes > 0


def test_external_data_are_checked_too() -> None:
    onnx, data = affine_model("elsewhere")
    with pytest.raises(GraphError, match="none of its files"):
        check_source(GraphSource("g", onnx, parse_weights(data), {WEIGHTS_FILE: data}))
