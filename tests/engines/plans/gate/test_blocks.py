"""The sums that end blocks: found in a graph, and given as outputs by ONNX Runtime."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper
from tiny_bundle import make_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.gate.blocks import block_outputs, with_outputs


def residual_model(factors: tuple[float, ...]) -> bytes:
    """x = x + (x + 1) * factor for each factor, then y = -x; Nx4."""
    nodes, last = [], "x"
    for place, _ in enumerate(factors):
        nodes += [
            helper.make_node("Add", [last, "one"], [f"p{place}"]),  # no block: a constant is added
            helper.make_node("Mul", [f"p{place}", f"f{place}"], [f"m{place}"]),
            helper.make_node("Add", [last, f"m{place}"], [f"b{place}"]),
        ]
        last = f"b{place}"
    nodes.append(helper.make_node("Neg", [last], ["y"]))
    named = {"one": 1.0, **{f"f{place}": factor for place, factor in enumerate(factors)}}
    weights = [numpy_helper.from_array(np.float32([v]), name) for name, v in named.items()]
    return make_model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights)


def test_the_sums_of_blocks_become_outputs() -> None:
    source = GraphSource("encoder", residual_model((1, 2, 3)))
    names = block_outputs(source)
    assert names == ("b0", "b1", "b2")
    engine = CPU.load(with_outputs(source, names), EngineOptions(threads=1))
    found = {n: t.numpy() for n, t in engine.run({"x": np.ones((2, 4), np.float32)}).items()}
    engine.close()
    expected = {"y": -47, "b0": 3, "b1": 11, "b2": 47}
    assert {name: float(array[0, 0]) for name, array in found.items()} == expected
    assert block_outputs(with_outputs(source, names)) == ()  # they are outputs now
