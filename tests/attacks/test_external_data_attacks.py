"""Graphs whose external tensors are not in the weights file that they name.

The file's bytes are verified, but the graph decides which of them a tensor takes. No parser may see
such a graph: OpenVINO's is replaced by one that records its input, TensorRT's by the bindings of
`recorded_tensorrt`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import Figures
from onnx import AttributeProto, ModelProto, TensorProto, helper
from plan_samples import fake_library
from recorded_tensorrt import Script
from tiny_bundle import WEIGHT, WEIGHTS_FILE, affine_model, make_model

from samclip.engines.base import GraphSource
from samclip.engines.openvino.library import read_graph
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.request import BuildRequest
from samclip.engines.tensorrt.engine import refit
from samclip.errors import EngineRunError, PlanBuildError
from samclip.runtime.bundles.weights import parse_weights, weight_offsets

FAULT = "graphs that name what their weights file does not hold"
DATA = affine_model()[1]
AT, SIZE = weight_offsets(DATA)["w"]
END = len(DATA)


def tensor(
    offset: object = AT,
    length: object = SIZE,
    name: str = "w",
    dims: tuple[int, ...] = WEIGHT.shape,
    data_type: int = TensorProto.FLOAT,
) -> TensorProto:
    """A tensor in the weights file; None leaves an entry out."""
    made = TensorProto(name=name, data_type=data_type, dims=dims)
    made.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", length)):
        if value is not None:
            made.external_data.add(key=key, value=str(value))
    return made


def graph(made: TensorProto) -> bytes:
    node = helper.make_node("MatMul", ["x", made.name], ["y"])
    return make_model([node], {"x": ["n", 4]}, {"y": ["n", 3]}, [made])


def constant(made: TensorProto) -> bytes:
    """The same with the tensor as an attribute, which no backend receives by its name."""
    value = AttributeProto(name="value", type=AttributeProto.TENSOR, t=made)
    node = helper.make_node("Constant", [], [made.name])
    node.attribute.append(value)
    return make_model([node], {"x": ["n", 4]}, {made.name: [4, 3]})


def twice(key: str, value: object) -> bytes:
    made = tensor()
    made.external_data.add(key=key, value=str(value))
    return graph(made)


def subgraph(made: TensorProto) -> bytes:
    inner = helper.make_graph([], "inner", [], [], [made])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    return make_model([node], {"x": ["n", 4]}, {"y": ["n", 3]})


def sparse(made: TensorProto) -> bytes:
    model = ModelProto.FromString(make_model([], {}, {}))
    model.graph.sparse_initializer.add().values.CopyFrom(made)
    return model.SerializeToString()


CASES: dict[str, bytes] = {
    "begins where the file ends": graph(tensor(END)),
    "ends behind the file": graph(tensor(END - SIZE + 1)),
    "far behind the file": graph(tensor(2**62)),
    "offset beyond 64 bits": graph(tensor(2**64 - 8)),
    "offset of more digits than Python reads": graph(tensor("9" * 5000)),
    "negative offset": graph(tensor(-8)),
    "length beyond the file": graph(tensor(length=2**62)),
    "negative length": graph(tensor(length=-SIZE)),
    "no bytes": graph(tensor(length=0)),
    "shorter than its shape": graph(tensor(length=8)),
    "longer than its shape": graph(tensor(length=SIZE + 6)),
    "larger shape than the file": graph(tensor(length=None, dims=(4, 30_000_000))),
    "negative shape": graph(tensor(dims=(-4, -3))),
    "shape beyond 64 bits": graph(tensor(dims=(2**62,) * 60)),
    "shape of ten thousand axes": graph(tensor(dims=(1,) * 10**4)),
    "overlaps another tensor": graph(tensor(AT + 4)),
    "overlaps the file's header": graph(tensor(AT - 8)),
    "no offset": graph(tensor(None)),
    "between two numbers": graph(tensor(AT + 1)),
    "another tensor's name": graph(tensor(name="other.variant")),
    "a name that the file does not have": graph(tensor(name="nothing")),
    "no name": graph(tensor(name="")),
    "other numbers of the same size": graph(tensor(dims=(3,), length=12)),
    "text": graph(tensor(data_type=TensorProto.STRING)),
    "a type that there is not": graph(tensor(data_type=99)),
    "words for numbers": graph(tensor("all", "of it")),
    "signed": graph(tensor(f"+{AT}")),
    "with a space": graph(tensor(f" {AT}")),
    "digits of another script": graph(tensor("\N{ARABIC-INDIC DIGIT THREE}")),
    "two offsets": twice("offset", 2**62),
    "two lengths": twice("length", 2**62),
    "two locations": twice("location", WEIGHTS_FILE),
    "an attribute behind the file": constant(tensor(END)),
    "a subgraph's tensor behind the file": subgraph(tensor(END)),
    "a sparse tensor behind the file": sparse(tensor(END)),
}
# Sound for a backend that opens the file; one that receives tensors by name would look for a file.
UNNAMED: dict[str, bytes] = {
    "an attribute": constant(tensor()),
    "a subgraph's tensor": subgraph(tensor()),
    "a sparse tensor": sparse(tensor()),
}


def source(onnx: bytes) -> GraphSource:
    return GraphSource("crafted", onnx, parse_weights(DATA), {WEIGHTS_FILE: DATA})


class Parser:
    """A stand-in for OpenVINO's `Core` in `read_graph`; it must not be reached."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def read_model(self, graph: Any) -> None:
        self.seen.append(graph)


def open_with_openvino(onnx: bytes) -> int:
    parser = Parser()
    try:
        with read_graph(parser, source(onnx)):
            pass
    except EngineRunError as error:
        check_message(str(error))
    except ValueError as error:  # the backend makes it its own error
        assert "not an ONNX graph" in str(error)
    return len(parser.seen)


def build_with_tensorrt(onnx: bytes) -> int:
    script = Script()
    request = BuildRequest(source=source(onnx), capabilities=("8.7",))
    with pytest.raises(PlanBuildError) as caught:
        build_plan(request, fake_library(script))
    check_message(str(caught.value))
    return len([*script.named("parse"), *script.named("load_model_proto")])


def refit_with_tensorrt(onnx: bytes) -> int:
    script = Script()
    with pytest.raises(EngineRunError) as caught:
        refit(fake_library(script), None, source(onnx))
    check_message(str(caught.value))
    return len([*script.named("refit_from_bytes"), *script.named("load_model_proto")])


def check_message(text: str) -> None:
    assert len(text) < 500
    assert "xport" in text  # what to do


OPENERS: list[Callable[[bytes], int]] = [
    open_with_openvino, build_with_tensorrt, refit_with_tensorrt,
]  # fmt: skip


@pytest.mark.parametrize("open_it", OPENERS)
def test_no_parser_sees_bad_graphs(open_it: Callable[[bytes], int], figures: Figures) -> None:
    for name, onnx in CASES.items():
        assert open_it(onnx) == 0, name
    figures.add(FAULT, count=len(CASES), found="refused before a parser sees them")


@pytest.mark.parametrize("open_it", OPENERS[1:])
def test_what_tensorrt_would_look_for_in_the_current_folder(
    open_it: Callable[[bytes], int], figures: Figures
) -> None:
    for name, onnx in UNNAMED.items():
        assert open_it(onnx) == 0, name
    figures.add(FAULT, count=len(UNNAMED), found="refused before a parser sees them")


def test_sound_graphs_reach_the_parser() -> None:
    for onnx in (graph(tensor()), graph(tensor(length=None)), *UNNAMED.values()):
        assert open_with_openvino(onnx) == 1


def test_tensorrt_reads_no_file_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real parser looks there for tensors that it was not given."""
    pytest.importorskip("tensorrt_rtx")
    from samclip.engines.plans.library import open_library

    (tmp_path / WEIGHTS_FILE).write_bytes(np.full(1000, 7, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    request = BuildRequest(source=source(graph(tensor(name="nothing"))), capabilities=("8.6",))
    with pytest.raises(PlanBuildError, match="holds no tensor of this name"):
        build_plan(request, open_library("tensorrt-rtx"))
