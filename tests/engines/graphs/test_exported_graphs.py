"""The checked reader knows what the exporters write: no operator more, none less, every size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from exported_graphs import FAMILIES, exported_graphs
from onnx import shape_inference
from tiny_bundle import affine_model, negation_model

import samclip
from samclip.engines.graphs.checks import GraphCheck
from samclip.engines.graphs.operators import OPERATORS, OPSETS
from samclip.engines.graphs.parsed import DTYPES, ParsedGraph, parse_model
from samclip.engines.graphs.sizes import Dim
from samclip.export.canvases import weights_owner
from samclip.export.graph_files import GraphFiles
from samclip.export.graphs import MAX_OPSET, MIN_OPSET
from samclip.runtime.bundles.weights import parse_weights

PACKAGED = Path(samclip.__file__).parent / "assets" / "bundles" / "samclip-tiny"
SIZES = {"prompts": 3, "points": 5, "texts": 2, "regions": 4, "vocabulary": 7}
MANY = ("clip_text", "vit", "ovsam")  # families written in every opset


def packaged() -> Iterator[tuple[str, bytes, bytes]]:
    for file in sorted(PACKAGED.glob("*.onnx")):
        weights = PACKAGED / f"{weights_owner(file.stem)}.safetensors"  # one for all shapes
        yield file.stem, file.read_bytes(), weights.read_bytes()


def graphs_of(files: GraphFiles) -> Iterator[tuple[str, bytes, bytes]]:
    (weights,) = (data for name, data in files.files.items() if not name.endswith(".onnx"))
    for name, data in files.files.items():
        if name.endswith(".onnx"):
            yield name, data, weights


def number(dim: Dim) -> int:
    """A size in the run of `SIZES`."""
    if isinstance(dim, int):
        return dim
    return sum(count * math.prod(SIZES[name] for name in term) for term, count in dim.terms)


def check_sizes(label: str, data: bytes, weights: bytes) -> ParsedGraph:
    """Compare every shape and type with those that onnx infers for one run."""
    graph = label.rsplit(maxsplit=1)[-1].split(".", maxsplit=1)[0]  # files are called as graphs
    check = GraphCheck(parse_model(data), parse_weights(weights), graph)
    check.run()
    proto = onnx.load_from_string(data)
    for value in proto.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = SIZES[axis.dim_param]
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(proto, data_prop=True)
    compared = 0
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        ours = check.tensors[value.name]
        assert DTYPES[ours.dtype][0] == DTYPES[tensor.elem_type][0], f"{label} {value.name}"
        dims = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
        found = [number(dim) for dim in ours.dims]
        assert len(dims) == len(found), f"{label} {value.name}"
        assert all(a in (b, None) for a, b in zip(dims, found, strict=True)), (
            f"{label} {value.name}"
        )
        compared += 1
    assert compared > len(proto.graph.node) * 0.9, label  # onnx finds nearly all shapes
    return check.graph


def test_packaged_graphs() -> None:
    for name, data, weights in packaged():
        parsed = check_sizes(name, data, weights)
        assert {node.operator for node in parsed.nodes} <= set(OPERATORS)


def test_opsets_are_the_exporters() -> None:
    assert (OPSETS[0], OPSETS[-1]) == (MIN_OPSET, MAX_OPSET)


def test_a_small_text_tower() -> None:
    """One family in one opset, for every run of the tests."""
    for label, files in exported_graphs({"quick_text": FAMILIES["quick_text"]}, (20,)):
        for name, data, weights in graphs_of(files):
            check_sizes(f"{label} {name}", data, weights)


@pytest.mark.slow
def test_the_list_is_what_exporters_write() -> None:
    written: defaultdict[str, set[str]] = defaultdict(set)

    def note(parsed: ParsedGraph) -> None:
        for node in parsed.nodes:
            written[node.operator] |= set(node.attributes)

    for name, data, weights in packaged():
        note(check_sizes(name, data, weights))
    for opset, families in ((20, FAMILIES), *((o, MANY) for o in (18, 21, 23))):
        chosen = {family: FAMILIES[family] for family in families}
        for label, files in exported_graphs(chosen, (opset,)):
            for name, data, weights in graphs_of(files):
                note(check_sizes(f"{label} {name}", data, weights))
    for data in (affine_model()[0], negation_model()):
        note(parse_model(data))
    assert set(OPERATORS) == set(written)
    assert {name: operator.attributes for name, operator in OPERATORS.items()} == {
        name: frozenset(attributes) for name, attributes in written.items()
    }
