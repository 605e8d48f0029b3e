"""The arena that sessions share: the graph that empties it, and what must not depend on it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from tiny_bundle import make_model

from samclip.engines.base import EngineOptions, GraphSource
from samclip.engines.onnxruntime import arena
from samclip.engines.onnxruntime.backend import CPU


def doubling() -> GraphSource:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return GraphSource("g", make_model([node], {"x": ["n", 1024]}, {"y": ["n", 1024]}, []), {}, {})


def test_the_graph_that_is_run_for_the_arena_is_the_identity() -> None:
    model = onnx.load_model_from_string(arena.IDENTITY)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


def test_outputs_outlive_their_engine_and_memory_that_is_given_back() -> None:
    engine = CPU.load(doubling(), EngineOptions(threads=1))
    x = np.random.default_rng(0).standard_normal((500, 1024), np.float32)  # 2 MB
    y = engine.run({"x": x})["y"]
    engine.close()
    arena.give_back(onnxruntime)
    again = CPU.load(doubling(), EngineOptions(threads=1))  # takes what is free
    again.run({"x": -x})
    np.testing.assert_array_equal(y.numpy(), 2 * x)
    again.close()


def test_a_forked_child_has_arenas_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = onnxruntime.SessionOptions(), onnxruntime.SessionOptions()
    arena.share(onnxruntime, shared)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    arena.share(onnxruntime, own)
    assert shared.get_session_config_entry(arena.SHARED) == "1"
    with pytest.raises(RuntimeError):
        own.get_session_config_entry(arena.SHARED)


FORKED = """
import os, sys
from samclip.engines.onnxruntime import arena  # as a server's parent does that loads nothing
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import onnxruntime
for _ in range(2):
    settings = onnxruntime.SessionOptions()
    arena.share(onnxruntime, settings)
    assert settings.get_session_config_entry(arena.SHARED) == "1"
arena.give_back(onnxruntime)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_a_parent_that_loaded_nothing_has_one_arena() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)
