"""Plans that do not fit this machine or this bundle: "auto" warns, and ONNX Runtime answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from figures import Figures
from mixed_calls import CALLS, digest, photos
from plan_samples import HOST, PLAN, fake_library, sample_sidecar
from recorded_tensorrt import Script

import samclip
from samclip.engines import registry
from samclip.engines.base import EngineOptions, GraphKey, GraphSource, Probe, Traits
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.gate.admission import admit
from samclip.engines.plans.match import PlanHost, find_plan
from samclip.engines.plans.sidecar import BuiltFor, identify
from samclip.engines.plans.store import plan_folder, write_plan
from samclip.engines.steps import BuildPlans
from samclip.engines.tensorrt.backend import missing_plans
from samclip.errors import EngineRunError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import Graphs

OTHER = "f" * 64
# Changes to the plans of all graphs: to their sidecars, to the graphs in these, to the machine.
UNFIT: dict[str, tuple[dict[str, Any], dict[str, Any], PlanHost]] = {
    "changed graph": ({}, {"onnx_sha256": OTHER}, HOST),
    "changed weights": ({}, {"weights_sha256": OTHER}, HOST),
    "other precision": ({}, {"onnx_sha256": OTHER, "precision": "fp16"}, HOST),
    "other lowering": ({}, {"onnx_sha256": OTHER, "attention": "fold"}, HOST),
    "older library": ({"library_version": "10.2.0"}, {}, HOST),
    "newer library": ({"library_version": "10.16.1"}, {}, HOST),
    "other library": ({"library": "tensorrt-rtx"}, {}, HOST),
    "older GPU": ({"target": BuiltFor(capabilities=("7.2",), system=HOST.system)}, {}, HOST),
    "newer GPU": ({"target": BuiltFor(capabilities=("12.0",), system=HOST.system)}, {}, HOST),
    "other system": ({"target": BuiltFor(capabilities=("8.7",), system="Windows AMD64")}, {}, HOST),
    "other CPU": (
        {"target": BuiltFor(capabilities=("8.7",), system="Linux riscv")},
        {},
        HOST,
    ),
    "new GPU here": ({}, {}, replace(HOST, capability="9.0")),
    "new library here": ({}, {}, replace(HOST, version="10.4.0")),
}


class NoTensorRt:
    """TensorRT as far as its plans' sidecars: it must not be asked for more."""

    name = "tensorrt"
    traits = Traits()

    def __init__(self, host: PlanHost) -> None:
        self.host = host

    def probe(self) -> Probe:
        return Probe(True, "as if it were here")

    def ready(self, graphs: Sequence[GraphKey], options: EngineOptions) -> Probe:
        return missing_plans(graphs, self.host)

    def load(self, *arguments: object) -> Any:
        raise AssertionError("a plan that does not fit was to be loaded")


def store_plans(bundle: Bundle, changes: dict[str, Any], of_graph: dict[str, Any]) -> None:
    """Put a plan of each graph into the cache, all with the same fault."""
    for name in Graphs.__struct_fields__:
        if getattr(bundle.manifest.graphs, name) is not None:
            graph = identify(bundle.source(name, "tensorrt"))
            graph = msgspec.structs.replace(graph, **of_graph)
            write_plan(plan_folder(), PLAN, sample_sidecar(graph=graph, **changes))


def all_answers(model: samclip.Model) -> list[str]:
    scene = model.encode(photos()[0])
    return [digest(ask(scene)) for ask in CALLS.values()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of plans for each test."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def expected(coloured_bundle: Path) -> list[str]:
    with samclip.load(coloured_bundle, "onnxruntime") as model:
        return all_answers(model)


@pytest.mark.parametrize(("changes", "of_graph", "host"), UNFIT.values(), ids=UNFIT)
def test_onnxruntime_answers_in_place_of_plans_that_do_not_fit(
    changes: dict[str, Any],
    of_graph: dict[str, Any],
    host: PlanHost,
    coloured_bundle: Path,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    figures: Figures,
) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (NoTensorRt(host), CPU))
    bundle = Bundle.open(coloured_bundle)
    store_plans(bundle, {}, {})
    if host == HOST:  # unchanged plans fit: else the test would show nothing
        assert registry.BACKENDS[0].ready(keys(bundle), EngineOptions()).available
        for plan in plan_folder().iterdir():
            plan.unlink()
        store_plans(bundle, changes, of_graph)
    with caplog.at_level(logging.WARNING, "samclip"), samclip.load(coloured_bundle) as model:
        assert model.backend == "onnxruntime"
        (passed,) = model.passed_over
        assert isinstance(passed.steps[0], BuildPlans)
        assert passed.steps[0].origin == str(coloured_bundle)
        answers = all_answers(model)
    (record,) = caplog.records
    assert "'tensorrt' works here but is not ready" in record.getMessage()
    assert f"To do: {passed.remedy}" in record.getMessage()
    assert vars(record)["steps"] == passed.steps
    assert answers == expected
    figures.add(
        "TensorRT: plans that do not fit, with backend 'auto'",
        count=1,
        found="passed over with a warning that names the command; ONNX Runtime answers",
    )


def no_trial(axes: object) -> NoReturn:
    raise EngineRunError("the FP32 graph does not answer")


class JudgingTensorRt(NoTensorRt):
    """TensorRT as far as the admission of its plans, with which FP32 cannot be compared."""

    def load(self, source: GraphSource, options: EngineOptions) -> Any:
        admit(find_plan(source, self.host), replace(source, trial=no_trial), fake_library(Script()))
        raise AssertionError("a plan that is wrong was admitted")


def test_onnxruntime_answers_in_place_of_plans_that_cannot_be_judged(
    coloured_bundle: Path,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    figures: Figures,
) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (JudgingTensorRt(HOST), CPU))
    store_plans(Bundle.open(coloured_bundle), {}, {})
    with caplog.at_level(logging.WARNING, "samclip"), samclip.load(coloured_bundle) as model:
        assert model.backend == "onnxruntime"
        assert all_answers(model) == expected
    (record,) = caplog.records
    assert "'tensorrt' does not start, the next one is tried" in record.getMessage()
    assert "was never judged, and is not used" in record.getMessage()
    figures.add(
        "TensorRT: plans that cannot be judged, with backend 'auto'",
        count=1,
        found="passed over with one warning; ONNX Runtime answers",
    )


def keys(bundle: Bundle) -> list[GraphKey]:
    """Return the keys by which "auto" asks for the graphs."""
    graphs = [name for name in Graphs.__struct_fields__ if getattr(bundle.manifest.graphs, name)]
    found = [identify(bundle.source(name, "tensorrt")) for name in graphs]
    return [
        GraphKey(graph.name, graph.onnx_sha256, graph.weights_sha256, graph.origin)
        for graph in found
    ]
