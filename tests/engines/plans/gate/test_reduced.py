"""Graphs in fewer bits, judged in real child processes on a backend with planted faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import precision_stand_ins
import pytest
from onnx import helper
from precision_stand_ins import CRASHES, DEPARTS, HANGS, RIGHT, SHORT, StandIn
from tiny_bundle import make_model

from samclip.engines.base import EngineOptions, GraphKey, GraphSource
from samclip.engines.isolated import backend as isolated
from samclip.engines.onnxruntime.backend import CPU
from samclip.engines.plans.gate import reduced
from samclip.engines.plans.gate.cases import Feeds, Question, Trial, make_noise
from samclip.engines.plans.gate.reduced import admit_graph, find_judged, is_admitted, judge_graph
from samclip.engines.plans.gate.verdict import MadeInput, Measure
from samclip.engines.plans.sidecar import identify
from samclip.errors import BackendUnavailableError

INPUT = MadeInput(name="x", dtype="float32", shape=(4, 32))
BF16 = EngineOptions(precision="bf16")
STAND_IN: Any = StandIn()


@pytest.fixture(autouse=True)
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child processes know the stand-in."""
    monkeypatch.setattr(isolated, "START", precision_stand_ins.start_of("work"))


def source(fault: str, both: bool = True, share: float = 1.0) -> GraphSource:
    """A graph of the outputs y and z, or z alone; `share`: what the next graphs make of z."""
    names = ("y", "z") if both else ("z",)
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in names]
    onnx = make_model(nodes, {"x": ["n", 32]}, {name: ["n", 32] for name in names}, [])
    made = GraphSource(f"{fault}-graph", onnx)

    def compare(expected: Feeds, found: Feeds) -> Mapping[str, Mapping[Measure, float]]:
        is_right = np.array_equal(expected["z"], found["z"])
        return {"z": {"same_label": 1.0 if is_right and share == 1 else share}}

    questions = [Question("a photo", make_noise([INPUT], 1), compare)]
    return replace(made, trial=lambda axes: Trial(made, questions, (INPUT,)))


def key_of(given: GraphSource) -> GraphKey:
    found = identify(given)
    return GraphKey(given.name, found.onnx_sha256, found.weights_sha256)


def test_a_graph_that_agrees_is_computed_so_and_judged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = source(RIGHT)
    assert not is_admitted(STAND_IN, key_of(given), "bf16")
    assert admit_graph(STAND_IN, given, BF16) == BF16
    judged = find_judged(STAND_IN, key_of(given), "bf16")
    assert judged is not None
    rows = {(row.output, row.measure): row.value for row in judged.verdicts[-1].rows}
    assert rows["z", "same_label"] == rows["y", "repeats"] == 1.0
    assert rows["y", "cosine"] >= 0.999999
    monkeypatch.setattr(isolated, "START", "import nothing")  # a child would end at once
    assert admit_graph(STAND_IN, given, BF16) == BF16
    assert is_admitted(STAND_IN, key_of(given), "bf16")
    elsewhere: Any = StandIn(facts=("another processor",))
    assert not is_admitted(elsewhere, key_of(given), "bf16")
    assert judge_graph(elsewhere, given, "bf16").state == "failed"  # by the child that ends


def test_an_output_that_departs_is_computed_in_fp32() -> None:
    given = source(DEPARTS)
    assert admit_graph(STAND_IN, given, BF16) == replace(BF16, fp32_outputs=("z",))
    judged = find_judged(STAND_IN, key_of(given), "bf16")
    assert judged is not None
    assert [one.state for one in judged.verdicts] == ["failed", "passed"]
    assert {row.output for row in judged.verdicts[0].failures} == {"z"}


def test_an_output_of_which_the_next_graph_makes_something_else_departs() -> None:
    """Its own measures are those of FP32; what the head would say is not."""
    judged = judge_graph(STAND_IN, source(RIGHT, share=0.98), "bf16")
    assert judged.state == "failed"
    (row,) = judged.verdicts[0].failures
    assert (row.output, row.measure, row.value, row.limit) == ("z", "same_label", 0.98, 0.99)


@pytest.mark.parametrize(
    ("fault", "reason"), [(DEPARTS, ""), (CRASHES, "signal 11"), (HANGS, "longer than 3 s")]
)
def test_a_graph_that_departs_crashes_or_hangs_is_computed_in_fp32(
    monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    if fault == HANGS:
        monkeypatch.setattr(reduced, "SECONDS", 3.0)
    given = source(fault, both=False)
    assert admit_graph(STAND_IN, given, BF16) == EngineOptions()
    judged = find_judged(STAND_IN, key_of(given), "bf16")
    assert judged is not None
    assert judged.state == "failed"
    assert reason in judged.verdicts[-1].reason
    assert not is_admitted(STAND_IN, key_of(given), "bf16")


def test_a_lack_of_memory_is_no_verdict() -> None:
    given = source(SHORT)
    with pytest.raises(BackendUnavailableError, match=r"could not be judged.*memory is short"):
        admit_graph(STAND_IN, given, BF16)
    assert find_judged(STAND_IN, key_of(given), "bf16") is None


def test_a_machine_or_a_backend_without_it_is_refused() -> None:
    unsuited: Any = StandIn(suits=False)
    with pytest.raises(BackendUnavailableError, match="bf16 is slow here"):
        admit_graph(unsuited, source(RIGHT), BF16)
    with pytest.raises(BackendUnavailableError, match="'onnxruntime' does not compute in bf16"):
        admit_graph(CPU, source(RIGHT), BF16)
    with pytest.raises(BackendUnavailableError, match="it is not a bundle's"):
        admit_graph(STAND_IN, replace(source(RIGHT), trial=None), BF16)
