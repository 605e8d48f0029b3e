"""The sums that end blocks: found in a graph, and given as outputs by ONNX Runtime."""

from __future__ import annotations

import numpy as np
from gate_samples import residual_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.gate.blocks import block_outputs, with_outputs


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
