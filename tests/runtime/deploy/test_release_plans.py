"""The plans of releases: built before they serve, shared, handed on and removed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from plan_samples import fake_library
from recorded_tensorrt import Script
from tiny_bundle import negation_model, tiny_files, tiny_manifest, write_tiny_bundle

from samclip.engines.base import Probe
from samclip.engines.plans import build
from samclip.engines.plans.gate.verdict import GateRow, Verdict
from samclip.engines.plans.store import StoredPlan, list_plans, plan_folder
from samclip.engines.tensorrt import backend as tensorrt
from samclip.errors import DeployError, PlanBuildError, PlanGateError
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.deploy import deployment
from samclip.runtime.deploy.deployment import deploy, roll_back
from samclip.runtime.deploy.first_run import FirstRun
from samclip.runtime.deploy.status import read_state
from samclip.runtime.plans import building
from samclip.runtime.plans.state import plan_state


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """TensorRT that works here, by stand-ins; releases run on it."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    script = Script(layers=(("MATRIX_MULTIPLY", "HALF"),))
    opened = fake_library(script)
    monkeypatch.setattr(building, "open_library", lambda *_: opened)
    monkeypatch.setattr(tensorrt, "probe_library", lambda _: Probe(True, "as if it were here"))
    monkeypatch.setattr(tensorrt, "installed_version", lambda _: "10.3.0")
    monkeypatch.setattr(deployment, "run_once", lambda _: FirstRun(backend="tensorrt", masks=1))
    return script


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "street"


def plans() -> list[StoredPlan]:
    return list_plans([plan_folder()])


def origins() -> list[str]:
    return [Path(plan.sidecar.graph.origin).name for plan in plans() if plan.sidecar is not None]


def test_plans_are_built_before_the_switch_and_follow_the_releases(
    tmp_path: Path, place: Path, script: Script
) -> None:
    names = []
    for name in ("a", "b", "c"):  # of the same graphs
        outcome = deploy(write_tiny_bundle(tmp_path / name, name=name), place)
        names.append(outcome.release.name)
        assert outcome.release.plans == 1
        assert outcome.plans[0].reused == (name != "a")
    assert len(script.named("build")) == 1
    assert origins() == [names[2]]  # its first release is gone
    assert [plan_state(plan) for plan in plans()] == ["current"]
    roll_back(place)
    assert len(script.named("build")) == 1
    for number, name in enumerate(("d", "e"), 2):  # other graphs
        files = {**tiny_files(), "encoder.onnx": negation_model() + b"\x1a\x01" + bytes([number])}
        write_bundle(tmp_path / name, tiny_manifest(name=name), files)
        names.append(deploy(tmp_path / name, place).release.name)
    assert sorted(origins()) == names[3:]


def test_a_failed_build_and_a_failed_gate_leave_what_serves(
    tmp_path: Path, place: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(write_tiny_bundle(tmp_path / "a", name="a"), place).release.name
    files = {**tiny_files(), "encoder.onnx": negation_model()}
    other = write_bundle(tmp_path / "b", tiny_manifest(name="b"), files)
    row = GateRow(output="y", run="alone", measure="cosine", value=0.5, limit=0.9999, case="cup")
    wrong = Verdict(state="failed", rows=(row,))
    with monkeypatch.context() as patch:
        patch.setattr(build, "judge_new", lambda *_: wrong)
        with pytest.raises(PlanGateError, match="y alone: cosine 0"):
            deploy(other, place)
    script.errors = (("/Neg", "Neg", "no importer"),)
    with pytest.raises(PlanBuildError, match="no importer"):
        deploy(other, place)
    state = read_state(place)
    assert (state.current, [release.name for release in state.releases]) == (first, [first])
    assert origins() == [first]
    unbuilt = deploy(other, place, deployment.DeploySettings(build=False))
    assert unbuilt.release.plans == 0
    assert read_state(place).previous == first


def test_plans_that_the_runtime_does_not_take_after_all_stop_the_deployment(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FirstRun(backend="onnxruntime", passed_over=("tensorrt: the canary is wrong.",))
    monkeypatch.setattr(deployment, "run_once", lambda _: run)
    with pytest.raises(DeployError, match=r"built for tensorrt.*onnxruntime.*the canary is wrong"):
        deploy(write_tiny_bundle(tmp_path / "a"), place)
    assert read_state(place).current is None
    assert plans() == []
    named = deployment.DeploySettings(backend="onnxruntime")
    assert deploy(tmp_path / "a", place, named).release.plans == 0


def test_a_plan_that_cannot_be_written_to_is_logged(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from samclip.runtime.deploy import release_plans

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(release_plans, "replace_sidecar", refuse)
    for name in ("a", "b", "c"):
        deploy(write_tiny_bundle(tmp_path / name, name=name), place)
    assert "cannot be changed: Permission denied" in caplog.text
    assert msgspec.to_builtins(plans()[0].sidecar)["graph"]["name"] == "encoder"
