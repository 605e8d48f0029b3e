"""Graphs, sidecars and libraries for the tests of plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from recorded_tensorrt import RTX, FakeTensorRT, Script
from tiny_bundle import WEIGHTS_FILE, affine_model

from samclip.engines.base import GraphSource
from samclip.engines.plans.library import KINDS, DriverState, Library, PlanGpu
from samclip.engines.plans.match import PlanHost, system_name
from samclip.engines.plans.sidecar import (
    BuildOptions,
    BuiltFor,
    PlanFile,
    PlanTensor,
    Sidecar,
    identify,
)
from samclip.runtime.bundles.weights import parse_weights

ORIN = PlanGpu(
    name="Orin", capability="8.7", cuda="12.6", memory=8 * 10**9, processors=8, integrated=True
)
RTX_3090 = PlanGpu(name="RTX 3090", capability="8.6", cuda="13.0", memory=24 * 2**30, processors=82)
HOST = PlanHost("tensorrt", "10.3.0", "8.7", processors=8, memory=8 * 10**9)
PLAN = b"the bytes of a plan" * 50


def sample_source(**changes: Any) -> GraphSource:
    """An encoder with a weights file, of a bundle that is nowhere."""
    onnx, weights = affine_model()
    source = GraphSource("encoder", onnx, parse_weights(weights), {WEIGHTS_FILE: weights})
    return replace(source, **{"origin": "/bundles/some bundle", **changes})


def sample_sidecar(source: GraphSource | None = None, **changes: Any) -> Sidecar:
    """The sidecar of a plan of `source` that fits HOST."""
    x = PlanTensor(name="x", mode="input", dtype="float32", shape=(1, 4))
    sidecar = Sidecar(
        plan=PlanFile(size=0, sha256="0" * 64),
        graph=identify(source or sample_source()),
        library="tensorrt",
        library_version="10.3.0",
        target=BuiltFor(capabilities=("8.7",), system=system_name(), gpu="Orin"),
        options=BuildOptions(),
        tensors=(x,),
        samclip="0",
        built="2026-11-21T10:00:00+00:00",
        seconds=1.0,
    )
    return msgspec.structs.replace(sidecar, **changes)


def fake_library(
    script: Script, version: str = "10.3.0", gpu: PlanGpu = ORIN, device: int = 0
) -> Library:
    """TensorRT (for RTX) of a recorded version on a GPU, its answers by `script`."""
    module = FakeTensorRT(version, script)
    state = DriverState(gpu, "540.4", "")
    kind = KINDS["tensorrt-rtx" if version == RTX else "tensorrt"]
    return Library(kind, module, version, state, (), device)
