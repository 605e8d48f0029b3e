"""The layer in which ONNX Runtime is timed in a precision, see `engines.precision_probe`."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial

import numpy as np

from samclip.engines.base import FULL, Backend, EngineOptions, EnginePrecision, GraphSource, Times
from samclip.engines.precision_probe import time_in_turns

SHAPE, WEIGHT = (1024, 768), (768, 3072)  # a layer of a ViT: 1,024 tokens of 768 values, to 3,072
SEED = 0
# The graph y = MatMul(x, w) of these shapes, with w in the file "w": IR version 8, opset 17.
PRODUCT = (
    b'\x08\x08:\x82\x01\n\x11\n\x01x\n\x01w\x12\x01y"\x06MatMul\x12\x01g*<\x08\x80\x06\x08\x80\x18'
    b"\x10\x01B\x01wj\r\n\x08location\x12\x01wj\x0b\n\x06offset\x12\x010j\x11\n\x06length\x12\x07"
    b"9437184p\x01Z\x15\n\x01x\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x08\x80\x08\n\x03\x08\x80\x06b\x15"
    b"\n\x01y\x12\x10\n\x0e\x08\x01\x12\n\n\x03\x08\x80\x08\n\x03\x08\x80\x18B\x04\n\x00\x10\x11"
)


def time_layers(backend: Backend, precision: EnginePrecision) -> Times:
    """Time a product on all cores; return its least times."""
    random = np.random.default_rng(SEED)
    x, w = (random.standard_normal(shape, np.float32) for shape in (SHAPE, WEIGHT))
    source = GraphSource("layer", PRODUCT, {"w": w}, {"w": w.tobytes()})
    with ExitStack() as open_engines:
        runs = {}
        for one in (FULL, precision):
            engine = backend.load(source, EngineOptions(precision=one))
            open_engines.enter_context(closing(engine))
            runs[one] = partial(engine.run, {"x": x})
        return time_in_turns([runs])
