"""Plans at their load: judged where they were not, kept verdicts, and the canary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_child
import msgspec
import numpy as np
import pytest
from fake_tensorrt import MAGIC
from gate_samples import AXES, CHANGED, SOURCE, WEIGHT, WIDTH, product_model, trial
from tensorrt_bench import Bench, tensorrt_bench

from samclip.engines.base import GraphSource
from samclip.engines.plans.gate.cases import NOISE, answer, make_canary, make_noise
from samclip.engines.plans.gate.judge import machine_of
from samclip.engines.plans.gate.kept import FOLDER_NAME
from samclip.engines.plans.gate.verdict import SKIPPED, GateRow, MadeInput, Verdict
from samclip.engines.plans.library import KINDS, DriverState, Library
from samclip.engines.plans.store import plan_folder, remove_plan
from samclip.errors import PlanForeignError, PlanGateError

X = np.ones((2, WIDTH), np.float32)


class Trials:
    """Makes trials, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, axes: Mapping[str, Any]) -> Any:
        self.made += 1
        return trial(axes)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Iterator[Bench]:
    with tensorrt_bench("cuda-python", monkeypatch, cache) as bench:
        bench.module.bounds = {"x": ((1, WIDTH), (2, WIDTH), (4, WIDTH))}
        yield bench


def judged_here(bench: Bench, state: Any = "passed") -> Verdict:
    """A verdict with a canary, as a build on this machine writes it."""
    one = trial()
    noise = next(case for case in answer(one) if case.name == NOISE)
    state_of_driver = DriverState(bench.host_gpu, "580", "")
    library = Library(KINDS["tensorrt"], bench.module, "10.3.0", state_of_driver, ())
    row = GateRow(output="y", run="alone", measure="cosine", value=0.5, limit=0.9999, case="cup")
    return Verdict(
        state=state,
        rows=(row,) if state == "failed" else (),
        machine=machine_of(library),
        canary=make_canary(noise, one.noise, "fp32"),
    )


def source(trials: Trials | None) -> GraphSource:
    return replace(SOURCE, trial=trials)


def test_a_plan_of_elsewhere_is_judged_once(bench: Bench) -> None:
    bench.store(SOURCE, axes=AXES)
    trials = Trials()
    for _ in range(2):
        engine = bench.load(source(trials))
        np.testing.assert_allclose(engine.run({"x": X})["y"].numpy(), X @ WEIGHT, rtol=1e-5)
        engine.close()
    assert trials.made == 1
    bench.host_gpu = msgspec.structs.replace(bench.host_gpu, cuda="13.1")  # a new driver
    bench.load(source(trials)).close()
    assert trials.made == 2


def test_a_kept_verdict_that_was_changed_is_not_believed(bench: Bench) -> None:
    bench.store(SOURCE, MAGIC + CHANGED, axes=AXES)
    trials = Trials()
    with pytest.raises(PlanGateError, match="y alone: cosine 0"):
        bench.load(source(trials))
    with pytest.raises(PlanGateError, match="y alone: cosine 0"):
        bench.load(source(trials))
    assert trials.made == 1
    (kept,) = (plan_folder() / FOLDER_NAME).glob("*.json")
    kept.write_bytes(kept.read_bytes().replace(b'"failed"', b'"passed"'))
    with pytest.raises(PlanGateError):
        bench.load(source(trials))
    assert trials.made == 2


@pytest.mark.parametrize("fault", [gate_child.REPLAYS, gate_child.CRASHES], ids=["replay", "crash"])
def test_a_wrong_plan_of_elsewhere_reaches_nobody(bench: Bench, fault: bytes) -> None:
    bench.store(SOURCE, MAGIC + fault + SOURCE.onnx, axes=AXES)
    with pytest.raises(PlanGateError):
        bench.load(source(Trials()))
    assert bench.module.given == []  # this process's TensorRT never saw it


def test_a_lack_of_memory_leaves_it_unjudged_and_unused(bench: Bench) -> None:
    bench.store(SOURCE, MAGIC + gate_child.SHORT + SOURCE.onnx, axes=AXES)
    trials = Trials()
    for _ in range(2):
        with pytest.raises(PlanGateError, match="was never judged, and cannot be now"):
            bench.load(source(trials))
    assert trials.made == 2


def test_a_verdict_in_the_sidecar_holds(bench: Bench) -> None:
    failed = bench.store(SOURCE, MAGIC + CHANGED, built="2027", gate=judged_here(bench, "failed"))
    right = bench.store(SOURCE, axes=AXES, gate=judged_here(bench))
    trials = Trials()
    bench.load(source(trials)).close()  # the older plan, which passed
    assert trials.made == 0
    remove_plan(right.path)
    assert failed.path.exists()
    with pytest.raises(PlanGateError, match=r"y alone: cosine 0\.5000, at least 0\.9999"):
        bench.load(source(trials))


@pytest.mark.parametrize("graph", [CHANGED, product_model(WEIGHT, ("Sqrt",))], ids=["other", "NaN"])
def test_the_canary_is_the_first_run_of_every_load(bench: Bench, graph: bytes) -> None:
    """The plan computes something else here than where it was judged; nothing of it is left."""
    stored = bench.store(SOURCE, MAGIC + graph, axes=AXES, gate=judged_here(bench))
    with pytest.raises(PlanForeignError, match=r"a sample of 'y' has a cosine of .* with FP32"):
        bench.load(source(None))
    bench.check_clean()
    assert stored.path.exists()


def test_plans_that_nobody_wished_judged_are_used(bench: Bench) -> None:
    bench.store(SOURCE, gate=SKIPPED)
    trials = Trials()
    bench.load(source(trials)).close()
    assert trials.made == 0


def test_noise_is_the_same_in_every_version_of_numpy() -> None:
    """The raw numbers of PCG64 are fixed; those of its distributions are not."""
    made = [
        MadeInput(name="a", dtype="float32", shape=(3,), low=-2, high=2),
        MadeInput(name="b", dtype="int64", shape=(2, 2), low=1, high=9),
    ]
    noise = make_noise(made, 7)
    np.testing.assert_allclose(noise["a"], [0.50038189, 1.58885515, 1.10274279], rtol=1e-7)
    np.testing.assert_array_equal(noise["b"], [[3, 3], [8, 1]])
