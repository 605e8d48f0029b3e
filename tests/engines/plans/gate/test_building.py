"""The gate of a build: what is written, what is refused, and what is judged later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gate_child
import pytest
from fake_tensorrt import MAGIC
from gate_samples import AXES, CHANGED, SOURCE, trial
from plan_samples import HOST, fake_library
from recorded_tensorrt import Script

from samclip.engines.base import Probe
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.gate import building
from samclip.engines.plans.match import find_plan
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.store import list_plans, plan_folder, replace_sidecar
from samclip.errors import PlanGateError

INPUTS = {"x": ("FLOAT", (-1, 32), ("n", None))}


def request(**changes: Any) -> BuildRequest:

    values = {"source": SOURCE, "capabilities": ("8.7",), "axes": AXES, "trial": trial}
    return BuildRequest(**{**values, **changes})


def library(graph: bytes = SOURCE.onnx, fault: bytes = b"") -> Any:
    return fake_library(Script(inputs=INPUTS, plan=MAGIC + fault + graph))


def test_a_right_plan_is_written_with_its_verdict() -> None:
    stored = build_plan(request(), library()).stored
    assert stored.sidecar is not None
    gate = stored.sidecar.gate
    assert (gate.state, gate.failures) == ("passed", ())
    assert gate.canary is not None
    assert find_plan(SOURCE, HOST).sidecar.gate == gate
    assert build_plan(request(), library(CHANGED)).reused  # it is not judged again


@pytest.mark.parametrize(
    ("graph", "fault", "message"),
    [
        (CHANGED, b"", r"y alone: cosine 0\.9\d+, at least 0\.9999 is asked for \(\d rows\)"),
        (SOURCE.onnx, gate_child.REPLAYS, r"y replayed: cosine -1\.0000"),
        (SOURCE.onnx, gate_child.CRASHES, r"crashed its process: signal SIGSEGV"),
    ],
    ids=["other weights", "replay", "crash"],
)
def test_a_wrong_plan_is_refused_with_the_table(graph: bytes, fault: bytes, message: str) -> None:
    with pytest.raises(PlanGateError, match=message) as caught:
        build_plan(request(), library(graph, fault))
    assert "does not compute what FP32 computes" in str(caught.value)
    assert caught.value.steps
    assert list_plans([plan_folder()]) == []


def test_a_plan_without_the_gate_says_so_and_is_judged_by_the_next_build() -> None:
    stored = build_plan(request(gate=False), library()).stored
    assert stored.sidecar is not None
    assert stored.sidecar.gate.state == "skipped"
    assert find_plan(SOURCE, HOST).sidecar.gate.state == "skipped"
    again = build_plan(request(), library())
    assert again.reused
    assert again.stored.sidecar is not None
    assert again.stored.sidecar.gate.state == "passed"
    assert [plan.path for plan in list_plans([plan_folder()])] == [stored.path]


def test_a_stored_plan_that_turns_out_wrong_is_never_found_again() -> None:
    stored = build_plan(request(gate=False), library(CHANGED)).stored
    with pytest.raises(PlanGateError):
        build_plan(request(), library(CHANGED))
    (kept,) = list_plans([plan_folder()])
    assert kept.path == stored.path
    with pytest.raises(PlanGateError, match="y together: cosine"):
        find_plan(SOURCE, HOST)
    assert not build_plan(request(), library()).reused


@pytest.mark.parametrize("why", ["no driver", "another GPU"])
def test_a_plan_that_cannot_run_here_is_left_unjudged(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(capabilities=("8.7",) if why == "no driver" else ("8.6",))
    if why == "no driver":
        monkeypatch.setattr(building, "probe_library", lambda _: Probe(False, "no driver is here"))
    stored = build_plan(wanted, library(CHANGED)).stored
    assert stored.sidecar is not None
    gate = stored.sidecar.gate
    assert gate.state == "unjudged"
    assert gate.reason in {"no driver is here", "the GPU here has compute capability 8.7"}


def test_a_sidecar_is_replaced_whole() -> None:
    stored = build_plan(request(gate=False), library()).stored
    assert stored.sidecar is not None
    again = replace_sidecar(stored, stored.sidecar)
    assert replace(again, sidecar=None) == replace(stored, sidecar=None)
