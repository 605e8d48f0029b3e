"""Planted wrong plans, each run in a child process on the stand-in for TensorRT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gate_child
import pytest
from fake_tensorrt import MAGIC
from gate_samples import CHANGED, LOUDER, NOT_A_NUMBER, SOURCE, trial
from plan_samples import fake_library
from recorded_tensorrt import RTX, Script

from samclip.engines.base import GraphSource
from samclip.engines.plans.gate.cases import Trial
from samclip.engines.plans.gate.judge import Defendant, judge_plan
from samclip.engines.plans.gate.verdict import Verdict, failure_table
from samclip.errors import PlanBuildError

MEASURES = {"cosine", "cosine_worst", "noise_cosine", "magnitude", "finite", "repeats"}


def judge(
    graph: bytes,
    precision: str = "fp32",
    fault: bytes = b"",
    version: str = "10.3.0",
    **changes: float,
) -> Verdict:
    defendant = Defendant(
        plan=MAGIC + fault + graph,
        source=replace(SOURCE, precision=precision),
        library=fake_library(Script(), version),
        precision=precision,
        **changes,
    )
    return judge_plan(defendant, trial())


def test_a_right_plan_passes_in_every_way_of_running() -> None:
    verdict = judge(SOURCE.onnx)
    assert (verdict.state, verdict.reason) == ("passed", "")
    found = {(row.output, row.run, row.measure): row.value for row in verdict.rows}
    expected = {("y", run, name) for run in ("alone", "replayed") for name in MEASURES}
    expected |= {("y", "together", name) for name in MEASURES - {"repeats"}}
    assert found.keys() == expected
    assert min(found.values()) >= 0.999999
    assert verdict.cases == ("1 rows", "4 rows", "noise")
    assert verdict.machine is not None
    assert (verdict.machine.gpu, verdict.machine.driver) == ("Orin", "540.4")
    assert verdict.canary is not None
    (sample,) = verdict.canary.samples
    assert (sample.output, len(sample.values)) == ("y", 64)


@pytest.mark.parametrize(
    ("graph", "measures"),
    [
        (CHANGED, {"cosine", "noise_cosine"}),
        (LOUDER, {"magnitude"}),  # in the right direction, and too long
        (NOT_A_NUMBER, {"cosine", "noise_cosine", "magnitude", "finite"}),
    ],
    ids=["other weights", "longer", "NaN"],
)
def test_a_plan_that_computes_something_else_fails(graph: bytes, measures: set[str]) -> None:
    verdict = judge(graph)
    assert verdict.state == "failed"
    assert measures <= {row.measure for row in verdict.failures}
    if measures == {"magnitude"}:
        assert {row.measure for row in verdict.failures} == measures
    assert {row.run for row in verdict.failures} == {"alone", "replayed", "together"}
    assert "is asked for (" in failure_table(verdict)


@pytest.mark.parametrize(
    ("fault", "runs", "measures"),
    [
        (gate_child.REPLAYS, {"replayed"}, {"cosine", "repeats"}),
        (gate_child.TOGETHER, {"together"}, {"cosine"}),
        (gate_child.WAVERS, {"alone", "replayed"}, {"repeats"}),
    ],
    ids=["replay", "two contexts", "repeats"],
)
def test_a_plan_that_is_wrong_in_one_way_of_running_fails(
    fault: bytes, runs: set[str], measures: set[str]
) -> None:
    verdict = judge(SOURCE.onnx, fault=fault)
    assert verdict.state == "failed"
    found = {row.run for row in verdict.failures}
    # two at once may be replayed too
    assert found - {"together"} == runs - {"together"}
    assert runs <= found
    assert measures <= {row.measure for row in verdict.failures}


def test_rtx_must_repeat_itself_as_its_kernels_are_compiled_before_they_run() -> None:
    verdict = judge(SOURCE.onnx, fault=gate_child.WAVERS, version=RTX)
    assert {row.measure for row in verdict.failures} == {"repeats"}
    assert judge(SOURCE.onnx, version=RTX).state == "passed"


def test_a_crash_is_a_verdict() -> None:
    verdict = judge(SOURCE.onnx, fault=gate_child.CRASHES)
    assert verdict.state == "failed"
    assert "the plan crashed its process: signal SIGSEGV" in failure_table(verdict)


def test_a_hang_is_a_verdict() -> None:
    verdict = judge(SOURCE.onnx, fault=gate_child.HANGS, seconds=2.5)
    assert (verdict.state, verdict.rows) == ("failed", ())
    assert "did not end within 2.5 s" in verdict.reason


def test_a_lack_of_memory_is_none() -> None:
    verdict = judge(SOURCE.onnx, fault=gate_child.SHORT)
    assert verdict.state == "unjudged"
    assert "DeviceMemoryError" in verdict.reason


def test_a_plan_that_tensorrt_refuses_fails() -> None:
    verdict = judge(b"no graph")
    assert verdict.state == "failed"


def test_without_an_answer_in_fp32_there_is_no_verdict(tmp_path: Path) -> None:
    reference = GraphSource("encoder", NOT_A_NUMBER)
    one = trial(reference=reference)
    defendant = Defendant(MAGIC + SOURCE.onnx, SOURCE, fake_library(Script()), "fp32")
    with pytest.raises(PlanBuildError, match="NaN or infinity for 'y' in FP32 already"):
        judge_plan(defendant, Trial(reference, one.questions, one.noise))
