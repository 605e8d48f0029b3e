"""Layers in which OpenVINO is timed in a precision, see `engines.precision_probe`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from samclip.engines.base import FULL, EnginePrecision, Times
from samclip.engines.machine.host import usable_cores
from samclip.engines.openvino.library import (
    DEVICE,
    HINTS,
    PRECISION_HINT,
    import_library,
    open_core,
)
from samclip.engines.precision_probe import time_in_turns

SEED = 0


def time_layers(precision: EnginePrecision) -> Times:
    """Time a product, a convolution and a depthwise one; return the sums of their least times."""
    library = import_library()
    core = open_core(library)
    return time_in_turns(
        {one: _compile(library, core, make, HINTS[one]) for one in (FULL, precision)}
        for make in (_product, _convolution, _depthwise)
    )


def _compile(
    library: Any, core: Any, make: Callable[[Any, np.random.Generator], Any], hint: str
) -> Callable[[], object]:
    given, result = make(library.opset8, np.random.default_rng(SEED))
    settings = {PRECISION_HINT: hint, "INFERENCE_NUM_THREADS": usable_cores(), "NUM_STREAMS": 1}
    model = core.compile_model(library.Model([result], [given], "layer"), DEVICE, settings)
    request = model.create_infer_request()
    feed = np.random.default_rng(SEED).standard_normal(given.get_output_shape(0), np.float32)
    return lambda: request.infer([feed])


def _product(opset: Any, random: np.random.Generator) -> tuple[Any, Any]:
    """Return a layer of a ViT: 1,024 tokens of 768 values, to 3,072."""
    given = opset.parameter([1024, 768], np.float32)
    weight = opset.constant(random.standard_normal((768, 3072), np.float32))
    return given, opset.matmul(given, weight, False, False)


def _convolution(opset: Any, random: np.random.Generator) -> tuple[Any, Any]:
    """Return a convolution of 3 x 3, 64 channels to 64."""
    given = opset.parameter([1, 64, 128, 128], np.float32)
    weight = opset.constant(random.standard_normal((64, 64, 3, 3), np.float32))
    return given, opset.convolution(given, weight, [1, 1], [1, 1], [1, 1], [1, 1])


def _depthwise(opset: Any, random: np.random.Generator) -> tuple[Any, Any]:
    """Return a depthwise convolution of 3 x 3, 144 channels."""
    given = opset.parameter([1, 144, 128, 128], np.float32)
    weight = opset.constant(random.standard_normal((144, 1, 1, 3, 3), np.float32))
    return given, opset.group_convolution(given, weight, [1, 1], [1, 1], [1, 1], [1, 1])
