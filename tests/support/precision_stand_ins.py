"""Stand-ins for processors that are slow in a precision, or that end whoever computes in it.

They are started as the real child processes are: one that tries a precision of OpenVINO, and one
that runs a graph, on a backend whose engines do in BF16 what the name of their graph says.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from samclip.engines import registry
from samclip.engines.base import (
    FULL,
    ArrayTensor,
    Engine,
    EngineOptions,
    EnginePrecision,
    GraphKey,
    GraphSource,
    Probe,
    Times,
    Traits,
)
from samclip.engines.isolated import worker
from samclip.engines.onnxruntime.backend import CPU
from samclip.errors import DeviceMemoryError

RIGHT, DEPARTS, CRASHES, HANGS, SHORT = "right", "departs", "crashes", "hangs", "short"


def start_of(function: str) -> str:
    """The code that calls a function of this module in a child process."""
    begin = "import sys; sys.path[:] = sys.argv[2:]; import precision_stand_ins; "
    return f"{begin}precision_stand_ins.{function}(sys.argv[1])"


def fast(task: str) -> None:
    _say(Times(1.0, 0.5))


def slow(task: str) -> None:
    _say(Times(0.01, 0.33))


def dies(task: str) -> None:
    os.kill(os.getpid(), signal.SIGILL)


def hangs(task: str) -> None:
    time.sleep(600)


def _say(times: Times) -> None:
    os.write(1, msgspec.json.encode(times))


@dataclass(frozen=True)
class StandIn:
    """ONNX Runtime's CPU, whose engines compute in BF16 what their graph's name says.

    `suits`: whether this machine is made for BF16.
    """

    name: str = "stand-in"
    suits: bool = True
    facts: tuple[str, ...] = ("a processor",)

    @property
    def traits(self) -> Traits:
        return Traits(on_host=True, engine_precisions=("bf16",))

    @property
    def precision_facts(self) -> tuple[str, ...]:
        return self.facts

    def probe_precision(self, precision: EnginePrecision, *, ask: bool = True) -> Probe:
        return Probe(self.suits, f"{precision} is slow here", "leave it out")

    def time_layers(self, precision: EnginePrecision) -> Times:
        raise NotImplementedError

    def probe(self) -> Probe:
        return Probe(True, "here")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        return Probe(True, "here")

    def load(self, source: GraphSource, options: EngineOptions) -> Engine:
        return StandInEngine(CPU.load(source, options), source.name, options)  # type: ignore[return-value]


class StandInEngine:
    """An engine that is wrong in BF16: its outputs, or what it does to its process."""

    def __init__(self, inner: Engine, graph: str, options: EngineOptions) -> None:
        self._inner, self._options = inner, options
        self._fault = RIGHT if options.precision == FULL else graph.partition("-")[0]
        self.input_names, self.output_names = inner.input_names, inner.output_names

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        if self._fault == CRASHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._fault == HANGS:
            time.sleep(600)
        if self._fault == SHORT:
            raise DeviceMemoryError("memory is short")
        found = self._inner.run(feeds, outputs)
        if self._fault == DEPARTS:
            kept = self._options.fp32_outputs
            others = {name: ArrayTensor(-one.numpy()) for name, one in found.items()}
            found = {name: one if name in kept else others[name] for name, one in found.items()}
            if "y" in found:  # this one never departs
                found["y"] = self._inner.run(feeds, ["y"])["y"]
        return {name: ArrayTensor(np.asarray(one.numpy())) for name, one in found.items()}

    def close(self) -> None:
        self._inner.close()


def work(seconds: str) -> None:
    """Do what the process of a graph does, with the stand-in among the backends."""
    registry.BACKENDS = (StandIn(), *registry.BACKENDS)
    worker.main(seconds)
