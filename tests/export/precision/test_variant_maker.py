from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from layered_encoder import Features, encoder

from samclip.errors import ExportError
from samclip.export.graph_files import GraphFiles
from samclip.export.options import PrecisionOptions
from samclip.export.precision.keep import parse_keep
from samclip.export.precision.variant_maker import VariantMaker
from samclip.progress import SILENT

HALF = 10  # ONNX's number of float16


def maker(files: GraphFiles, feeds: Any = None, **options: Any) -> VariantMaker:
    feeds = {"encoder": Features()} if feeds is None else feeds
    asked = parse_keep(options.get("keep_fp32", ()))
    return VariantMaker([files], feeds, PrecisionOptions(**options), asked, SILENT)


def operators(made: Any) -> list[str]:
    (model,) = made.models["encoder"].values()
    return [node.op_type for node in model.graph]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))


def test_fp16_is_typed() -> None:
    made = maker(encoder()).make("fp16")
    (variant, model), *_ = made.models["encoder"].items()
    assert variant.file == "encoder.fp16.onnx"
    products = [node for node in model.graph if node.op_type == "MatMul"]
    assert [node.outputs[0].dtype for node in products] == [HALF, HALF]
    assert made.kept == ()


def test_overflowing_nodes_stay_in_fp32_and_are_listed() -> None:
    made = maker(encoder(gain=1e5)).make("fp16")
    assert {node.node for node in made.kept} == {"first", "second"}  # who makes it, who reads it
    assert all(node.peak > 65_504 and node.tensor == "h" for node in made.kept)
    assert "MatMul" in operators(made)
    (model,) = made.models["encoder"].values()
    assert all(n.outputs[0].dtype != HALF for n in model.graph if n.op_type == "MatMul")
    assert maker(encoder(gain=1e5)).make("bf16").kept == ()  # its range is that of FP32


def test_int8_quantises_all_layers_but_those_that_are_left_out() -> None:
    quantising = maker(encoder(), calib=Path("unused"))
    assert operators(quantising.make("int8")).count("QuantizeLinear") == 2
    left = quantising.make("int8", frozenset({"encoder/first"}))
    assert operators(left).count("QuantizeLinear") == 1
    names = {error.layer for error in quantising.sensitivity("int8")}
    assert names == {"first", "second"}


def test_int8_with_fp16_leaves_overflowing_layers_in_fp32() -> None:
    made = maker(encoder(gain=1e5), calib=Path("unused")).make("int8_fp16")
    assert made.models == {}  # no layer is left in INT8, so nothing is called that
    fp16 = maker(encoder(gain=1e5)).make("fp16")
    assert {node.node for node in fp16.kept} == {"first", "second"}


def test_a_kept_graph_has_no_variants() -> None:
    assert maker(encoder(), keep_fp32=("encoder",)).make("fp16").models == {}


def test_a_graph_without_feeds_has_no_variants() -> None:
    assert maker(encoder(), feeds={}).make("fp16").models == {}


def test_a_kept_node_is_not_listed_but_kept() -> None:
    made = maker(encoder(), keep_fp32=("encoder:second",)).make("fp16")
    (model,) = made.models["encoder"].values()
    types = {node.name: node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul"}
    assert types["first"] == HALF
    assert types["second"] != HALF
    assert made.kept == ()


def test_a_pattern_that_fits_nothing() -> None:
    with pytest.raises(ExportError, match=r"encoder:Sofmax fits no operator"):
        maker(encoder(), keep_fp32=("encoder:Sofmax",))


def test_names_need_the_layers_behind_what_their_graph_reads() -> None:
    alone = maker(encoder(two_outputs=True)).layers_by_depth("int8")
    assert alone == {"encoder/first": False, "encoder/second": False}  # nothing names
    head = msgspec.structs.replace(encoder().graph, variants=())
    (spec,) = head.inputs
    for read, second in (("h", False), ("y", True)):
        graph = msgspec.structs.replace(head, inputs=(msgspec.structs.replace(spec, name=read),))
        files = [encoder(two_outputs=True), GraphFiles("clip_head", graph, {})]
        both = VariantMaker(
            files, {"encoder": Features()}, PrecisionOptions(), parse_keep(()), SILENT
        )
        assert both.layers_by_depth("int8") == {"encoder/first": True, "encoder/second": second}


@pytest.mark.parametrize("precision", ["int8", "int8_fp16"])
def test_a_graph_without_a_layer_in_int8_is_not_called_int8(precision: Any) -> None:
    """It would be the FP32 or FP16 graph under another name, byte for byte."""
    quantising = maker(encoder(), calib=Path("unused"), precisions=("int8", "fp16"))
    everything = frozenset({"encoder/first", "encoder/second"})
    assert quantising.make(precision, everything).models == {}
    assert "encoder" in quantising.make(precision, frozenset({"encoder/first"})).models
