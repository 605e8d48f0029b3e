"""TensorRT's own Python bindings, which misread weights: what they give, and that it is not used.

The bindings are a wheel of their own. They need TensorRT's libraries, of which an import calls
nothing: empty ones stand in, made as `scripts/record-tensorrt-api` makes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from tree import ROOT

WHEEL = "tensorrt-cu12-bindings==10.3.0"  # of JetPack 6.1 and 6.2
NEWEST_PYTHON = (3, 12)  # that has a wheel of it

CHILD = """
import ctypes, json, sys
from types import SimpleNamespace as Some
sys.path.insert(0, sys.argv[1])
import numpy as np, tensorrt
from samclip.engines.base import GraphSource
from samclip.engines.plans.network import Network, _expand_int8_constants

stored = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
read = []

class Constant:
    name, type, num_inputs, num_outputs = "w", Some(name="CONSTANT"), 0, 1

    def get_output(self, _):
        return Some(name="w_output", shape=stored.shape, dtype=Some(name="INT8"))

    @property
    def weights(self):
        read.append(self.name)
        return tensorrt.Weights(stored).numpy()

class Cast:
    name, type, num_inputs, num_outputs = "cast", Some(name="CAST"), 1, 1

    def __init__(self, tensor):
        self.tensor = tensor

    def get_input(self, _):
        return self.tensor

    def get_output(self, _):
        return Some(name="y", dtype=Some(name="FLOAT"))

    def set_input(self, _, tensor):
        self.tensor = tensor

class Definition:
    def __init__(self):
        constant = Constant()
        self.layers = [constant, Cast(constant.get_output(0))]
        self.num_layers = len(self.layers)
        self.given = []

    def get_layer(self, place):
        return self.layers[place]

    def add_constant(self, shape, values):
        self.given.append((shape, tensorrt.Weights(values), values))
        return Some(name="", get_output=lambda _: Some(name="expanded"))

definition = Definition()
network = Network(tensorrt, definition)
_expand_int8_constants(network, GraphSource("graph", b"", {"w": stored}))
(shape, weights, values), = definition.given
assert weights.size == values.size and weights.nbytes == values.nbytes
address = weights.numpy().ctypes.data  # which is right, whatever numpy makes of the rest
reached = np.frombuffer((ctypes.c_char * weights.nbytes).from_address(address), np.float32)
seen = np.asarray(definition.layers[0].weights)
print(json.dumps({
    "read": read[:-1], "shape": shape,
    "strides": seen.strides, "seen": seen.tolist(), "reached": reached.tolist(),
    "input": definition.layers[1].tensor.name, "expanded": network.expanded,
}))
"""


@pytest.fixture
def wheel(test_cache: Path) -> Path:
    """The wheel of this Python, fetched once."""
    folder = test_cache / WHEEL / f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    with FileLock(folder / ".lock"):
        if not any(folder.glob("*.whl")):
            subprocess.run(pip, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="makes shared libraries for Linux")
@pytest.mark.skipif(sys.version_info[:2] > NEWEST_PYTHON, reason=f"{WHEEL} has no such wheel")
def test_weights_are_never_read_through_tensorrt(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    bindings = tmp_path / "tensorrt_bindings"
    script = SourceFileLoader("record", str(ROOT / "scripts" / "record-tensorrt-api"))
    specification = spec_from_loader(script.name, script)
    assert specification is not None
    recorder = module_from_spec(specification)
    script.exec_module(recorder)
    recorder.make_libraries(bindings / "tensorrt.so", tmp_path)
    settings = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(bindings)],
        env=settings, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    expected = list(range(-6, 6))
    if int(np.__version__.partition(".")[0]) >= 2:
        assert found["strides"] == [0]  # each element is the first
        assert set(found["seen"]) == {-6}
    else:
        assert found["seen"] == expected
    assert found["read"] == []
    assert (found["shape"], found["reached"]) == ([3, 4], expected)
    assert (found["input"], found["expanded"]) == ("expanded", 1)
