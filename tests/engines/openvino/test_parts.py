"""A graph in two parts computes what it computes in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tiny_bundle import make_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.openvino.backend import OPENVINO, SETTINGS, Chain, Computing, OvEngine
from samclip.engines.openvino.compiler import Compiler
from samclip.engines.openvino.library import open_core
from samclip.engines.openvino.parts import split_outputs

openvino = pytest.importorskip("openvino")

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(1, 2, 3, 4)
FULL_PRECISION = {**SETTINGS, "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def graph() -> bytes:
    """a = relu(x) * 2, and c = tanh(a) + relu(x) + s, which goes on from within a's way."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "two"], ["a"]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["b"]),
        helper.make_node("Add", ["b", "r"], ["u"]),
        helper.make_node("Add", ["u", "s"], ["c"]),
    ]
    weights = [numpy_helper.from_array(np.float32([2]), "two")]
    shape = [1, 2, 3, 4]
    given = {"x": shape, "s": shape}
    return make_model(nodes, given, {"a": shape, "c": shape}, weights)


def chain(source: GraphSource, *kept: str) -> OvEngine:
    library, core = openvino, open_core(openvino)

    def compute(part: object) -> Computing:
        return Computing(Compiler(library, core, source, FULL_PRECISION, part=part).compiled)  # type: ignore[arg-type]

    first, second = split_outputs(kept)
    return OvEngine(library, Chain(compute(first), compute(second)), "parts")


@pytest.mark.parametrize("kept", ["a", "c"])
def test_both_parts_together_are_the_graph(kept: str) -> None:
    source = GraphSource("parts", graph())
    whole = OPENVINO.load(source, EngineOptions(threads=1))
    feeds = {"x": X, "s": X + 1}
    expected = {name: one.numpy() for name, one in whole.run(feeds).items()}
    parts = chain(source, kept)
    assert set(parts.input_names) == {"x", "s"}
    assert set(parts.output_names) == {"a", "c"}
    for outputs in (None, ["a"], ["c"], ["c", "a"]):
        found = parts.run(feeds, outputs)
        assert set(found) == set(outputs or ("a", "c"))
        for name, one in found.items():
            np.testing.assert_array_equal(one.numpy(), expected[name])
    parts.close()
    whole.close()


def test_parts_are_kept_apart_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blob of a part is never taken for that of another, or of the whole graph."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))
    source = GraphSource("parts", graph(), origin="/bundles/one")
    first, second = split_outputs(["a"])
    core = open_core(openvino)  # kept: without its Core the plugin goes, and exceptions crash
    compilers = [
        Compiler(openvino, core, source, FULL_PRECISION, part=part)
        for part in (None, first, second, split_outputs(["c"])[0])
    ]
    models = [compiler.compiled().model for compiler in compilers]
    again = [compiler.compiled().model for compiler in compilers]
    for one, other in zip(models, again, strict=True):
        assert [port.get_names() for port in one.outputs] == [
            port.get_names() for port in other.outputs
        ]
    assert len(list((tmp_path / "openvino").glob("*.blob"))) == 4
