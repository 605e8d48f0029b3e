"""The chain of a plan that is wrong: what is built instead, in which order, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_tensorrt import MAGIC
from gate_samples import AXES, CHANGED, SOURCE, trial
from plan_samples import HOST, fake_library
from recorded_progress import RecordedProgress
from recorded_tensorrt import Built, Script

from samclip.engines.base import GraphSource
from samclip.engines.plans import denied
from samclip.engines.plans.build import build_plan
from samclip.engines.plans.gate import building
from samclip.engines.plans.gate.judge import Defendant
from samclip.engines.plans.gate.verdict import GateRow, Verdict
from samclip.engines.plans.match import find_plan
from samclip.engines.plans.request import BuildRequest
from samclip.engines.plans.sidecar import BuildOptions, identify
from samclip.engines.plans.store import list_plans, plan_folder
from samclip.errors import PlanGateError, PlanStaleError


def form(precision: str, attention: str) -> GraphSource:
    """A form of the graph, which differs from the others in its producer's name alone."""
    label = f"{precision} {attention}".encode()
    producer = bytes([0x12, len(label)]) + label  # the field producer_name of ModelProto
    onnx = SOURCE.onnx + producer
    return replace(SOURCE, onnx=onnx, precision=precision, attention=attention)


FUSED, BIAS, FOLD = (form("fp16", attention) for attention in ("fused", "bias", "fold"))
FULL = form("fp32", "bias")
ATTENTION = (
    ("MATRIX_MULTIPLY", "HALF"),
    ("CAST", "FLOAT"),
    ("SOFTMAX", "FLOAT"),
    ("CAST", "HALF"),
    ("MATRIX_MULTIPLY", "HALF"),
)
LAYERS = (("CONVOLUTION", "HALF"), *ATTENTION, ("CONVOLUTION", "HALF"), *ATTENTION)
Right = Callable[[Built], bool]
ATTEMPTS = (
    "attention in the form 'bias'",
    "attention in the form 'fold'",
    "the builder's level 2",
    "attention in several kernels",
    "attention in FP32",
    "FP32, attention in the form 'bias'",
)
# Which plan is right, and the attempts up to it.
RIGHT: dict[str, tuple[Right, int]] = {
    "another form": (lambda built: built.onnx == FOLD.onnx, 2),
    "a lower level": (lambda built: built.level == 2, 3),
    "split attention": (lambda built: built.marked == 2, 4),
    # the form in parts, a cast into each attention, and one out of the first, which has a reader
    "attention in FP32": (lambda built: (built.onnx, built.casts) == (BIAS.onnx, 3), 5),
    "FP32 alone": (lambda built: built.onnx == FULL.onnx, 6),
}


def others() -> Iterator[GraphSource]:
    yield from (BIAS, FOLD, FULL)


def request(**changes: Any) -> BuildRequest:
    values = {"source": FUSED, "capabilities": ("8.7",), "axes": AXES, "trial": trial}
    return BuildRequest(**{**values, "others": others, **changes})


def script(right: Right) -> Script:
    """A TensorRT whose plans compute what they should where `right` says so."""

    def plan(built: Built) -> bytes:
        return MAGIC + (SOURCE.onnx if right(built) else CHANGED)

    return Script(inputs={"x": ("FLOAT", (-1, 32), ("n", None))}, layers=LAYERS, plan=plan)


@pytest.fixture(autouse=True)
def nothing_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in is TensorRT 10.3, of which FP16 is."""
    monkeypatch.setattr(denied, "RULES", ())


@pytest.fixture
def judged_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child: a plan is right if it is that of the graph."""

    def judge(defendant: Defendant, *_: Any) -> Verdict:
        if defendant.plan == MAGIC + SOURCE.onnx:
            return Verdict(state="passed")
        low = GateRow(output="y", run="alone", measure="cosine", value=0.5, limit=0.9, case="cup")
        return Verdict(state="failed", rows=(low,))

    monkeypatch.setattr(building, "judge_plan", judge)


@pytest.mark.usefixtures("judged_by_bytes")
@pytest.mark.parametrize(("right", "place"), RIGHT.values(), ids=RIGHT)
def test_the_first_right_plan_stands_in_for_the_one_asked_for(right: Right, place: int) -> None:
    answers, progress = script(right), RecordedProgress()
    library = fake_library(answers)
    stored = build_plan(request(), library, progress).stored
    tried = [note.partition("the next attempt: ")[2] for note in progress.notes]
    assert tuple(filter(None, tried)) == ATTEMPTS[:place]
    sidecar = find_plan(FUSED, HOST).sidecar  # the runtime asks for the graph of the bundle
    assert sidecar.gate.state == "passed"
    assert sidecar.asked is not None
    assert (sidecar.asked.graph, sidecar.asked.how) == (identify(FUSED), ATTEMPTS[place - 1])
    assert sidecar.attention_kernels == {4: "split", 5: "fp32"}.get(place, "any")
    assert [t.name for t in sidecar.tensors if t.mode == "output"] == ["y"]
    assert build_plan(request(), library).reused
    assert len(answers.named("build")) == place + 1
    with pytest.raises(PlanStaleError):  # of a changed bundle
        find_plan(replace(FUSED, onnx=FUSED.onnx + b" "), HOST)
    build_plan(request(force=True), fake_library(script(lambda *_: True)))
    (only,) = list_plans([plan_folder()])
    assert only.path != stored.path
    assert only.sidecar is not None
    assert only.sidecar.asked is None


def test_a_graph_that_is_right_in_fp32_alone_is_built_in_fp32() -> None:
    """Each plan runs in a child."""
    wanted = request(others=lambda: iter((FULL,)), options=BuildOptions(level=2))
    answers = script(lambda built: built.onnx == FULL.onnx)
    sidecar = build_plan(wanted, fake_library(answers)).stored.sidecar
    assert sidecar is not None
    assert (sidecar.graph, sidecar.serves) == (identify(FULL), identify(FUSED))
    assert {r.limit for r in sidecar.gate.rows if r.measure == "cosine"} == {0.9999}  # FP32's
    assert sidecar.gate.canary is not None


@pytest.mark.usefixtures("judged_by_bytes")
def test_nothing_is_written_when_no_plan_is_right() -> None:
    answers = script(lambda *_: False)
    with pytest.raises(PlanGateError, match="builds no plan of 'encoder'") as caught:
        build_plan(request(), fake_library(answers))
    text = str(caught.value)
    assert all(f"{how}: the plan of 'encoder'" in text for how in ("as asked", *ATTEMPTS))
    assert text.count("y alone: cosine 0.5000, at least 0.9 is asked for (cup)") == 7
    assert list_plans([plan_folder()]) == []
    assert len(answers.named("build")) == 7


@pytest.mark.usefixtures("judged_by_bytes")
def test_a_graph_without_other_forms_has_a_shorter_chain() -> None:
    """At level 2 already, and without a softmax to split."""
    answers = script(lambda *_: False)
    answers.layers = (("MATRIX_MULTIPLY", "FLOAT"),)
    wanted = request(source=SOURCE, others=None, options=BuildOptions(level=2))
    with pytest.raises(PlanGateError, match="in several kernels: the network has no softmax layer"):
        build_plan(wanted, fake_library(answers))
    assert len(answers.named("build")) == 1
