"""The process that tries a precision: a processor may be slow in it, or end the process.

It times layers of the kinds that encoders have, in FP32 and in the other precision in turn, and
writes the least time of each to its standard output.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from samclip.engines.child_process import end_after
from samclip.engines.machine.host import usable_cores
from samclip.engines.openvino.library import DEVICE, PRECISION_HINT, import_library, open_core

ROUNDS = 5
SEED = 0


class Task(msgspec.Struct, frozen=True):
    """What to try: OpenVINO's name of a precision; the process ends after `seconds`."""

    hint: str
    seconds: float


class Times(msgspec.Struct, frozen=True):
    """The least seconds of all layers together, in FP32 and in the other precision."""

    full: float
    reduced: float


def main(task: str) -> None:
    """Try the precision of a task, in JSON, and write `Times`; what libraries print goes aside."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given = msgspec.json.decode(task, type=Task)
    end_after(given.seconds)
    answers = os.dup(1)
    os.dup2(2, 1)
    os.write(answers, msgspec.json.encode(measure(given.hint)))
    os._exit(0)  # without waiting for the library's threads


def measure(hint: str) -> Times:
    """Time a product, a convolution and a depthwise one; their sums of least times."""
    library = import_library()
    core = open_core(library)
    totals = {"f32": 0.0, hint: 0.0}
    for make in (_product, _convolution, _depthwise):
        runs = {one: _compile(library, core, make, one) for one in totals}
        least = dict.fromkeys(totals, float("inf"))
        for number in range(1 + ROUNDS):
            for one, run in runs.items():
                start = time.perf_counter()
                run()
                if number:  # the first run chooses kernels
                    least[one] = min(least[one], time.perf_counter() - start)
        totals = {one: totals[one] + least[one] for one in totals}
    return Times(totals["f32"], totals[hint])


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
