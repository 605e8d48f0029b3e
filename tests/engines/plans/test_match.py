"""Finding a plan: the one that fits, or a refusal that says why and how to build it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plan_samples import HOST, PLAN, sample_sidecar, sample_source

from samclip.engines.plans.match import find_plan
from samclip.engines.plans.sidecar import AxisRange, BuildOptions, BuiltFor, Sidecar
from samclip.engines.plans.store import (
    StoredPlan,
    folder_beside,
    plan_folder,
    sidecar_path,
    write_plan,
)
from samclip.engines.steps import BuildPlans
from samclip.errors import (
    PlanDamagedError,
    PlanError,
    PlanForeignError,
    PlanMissingError,
    PlanStaleError,
)

SOURCE = sample_source()


def store(data: bytes = PLAN, **changes: object) -> StoredPlan:
    return write_plan(plan_folder(), data, sample_sidecar(**changes))


def build_step_of(error: PlanError) -> BuildPlans:
    """The one step that the error names, which builds plans."""
    (step,) = error.steps
    assert isinstance(step, BuildPlans)
    return step


def test_the_plan_of_this_graph_and_machine_is_found() -> None:
    store()
    plan = find_plan(SOURCE, HOST)
    assert plan.data == PLAN
    assert plan.sidecar.graph.name == "encoder"


def test_of_two_the_newer_is_taken() -> None:
    store(b"new", built="2026-12-01T00:00:00+00:00")
    store(b"old", built="2025-12-01T00:00:00+00:00")
    assert find_plan(SOURCE, HOST).data == b"new"


def test_without_a_plan_the_error_has_the_step_that_builds_it() -> None:
    with pytest.raises(PlanMissingError, match=r"no plan of 'encoder' \(fp32\)") as caught:
        find_plan(SOURCE, HOST)
    assert "Build one on this machine" in str(caught.value)
    assert build_step_of(caught.value) == BuildPlans(
        origin="/bundles/some bundle", backend="tensorrt", graphs=("encoder",), precision="fp32"
    )


@pytest.mark.parametrize("what", ["ONNX graph", "weights file"])
def test_a_changed_bundle_makes_a_plan_stale(what: str) -> None:
    store(options=BuildOptions(workspace=2**30, level=4))
    location = next(iter(SOURCE.files))
    changes = {
        "ONNX graph": {"onnx": SOURCE.onnx + b" "},
        "weights file": {"files": {location: SOURCE.files[location] + b" "}},
    }
    with pytest.raises(PlanStaleError, match=f"from a {what} with SHA-256") as caught:
        find_plan(replace(SOURCE, **changes[what]), HOST)
    step = build_step_of(caught.value)
    assert (step.workspace, step.level) == (2**30, 4)


def test_other_graphs_and_variants_are_not_taken_for_it() -> None:
    store(graph=sample_sidecar(sample_source(name="clip_head")).graph)
    changed = sample_source(onnx=b"another", precision="fp16")
    store(b"x", graph=sample_sidecar(changed).graph)
    with pytest.raises(PlanMissingError):
        find_plan(SOURCE, HOST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"library_version": "10.7.0"}, "built by tensorrt 10.7.0, here is 10.3.0"),
        (
            {"target": BuiltFor(capabilities=("8.6",), system=HOST.system, gpu="RTX 3090")},
            r"compute capability 8.6 \(RTX 3090\), the GPU here has 8.7",
        ),
        ({"target": BuiltFor(capabilities=("8.7",), system="Plan9 z80")}, "Plan9 z80, this is"),
        ({"library_version": "10.3.0.26"}, r"built by tensorrt 10\.3\.0\.26, here is 10\.3\.0"),
        (
            {"target": BuiltFor(capabilities=("8.7",), system=HOST.system, processors=16)},
            "with 16 multiprocessors, the GPU here has 8",
        ),
        (
            {"target": BuiltFor(capabilities=("8.7",), system=HOST.system, memory=2**34)},
            r"with 16\.0 GiB of memory, the GPU here has 7\.5 GiB",
        ),
    ],
)
def test_foreign_plans_are_refused(changes: dict[str, object], message: str) -> None:
    store(**changes)
    with pytest.raises(PlanForeignError, match=message):
        find_plan(SOURCE, HOST)


def test_a_plan_of_the_same_model_of_gpu_fits() -> None:
    """Drivers keep a part of the memory back, and older sidecars may lack what is not known."""
    target = BuiltFor(
        capabilities=("8.7",), system=HOST.system, processors=8, memory=int(7.4 * 2**30)
    )
    store(target=target)
    assert find_plan(SOURCE, HOST).sidecar.target == target
    assert find_plan(SOURCE, replace(HOST, processors=None, memory=None)).sidecar.target == target


def test_a_foreign_plan_of_this_graph_is_reported_rather_than_a_stale_one() -> None:
    store(graph=sample_sidecar(sample_source(onnx=b"older")).graph)
    store(b"x", library_version="10.7.0")
    with pytest.raises(PlanForeignError):
        find_plan(SOURCE, HOST)


def test_a_damaged_plan_is_passed_over_for_a_sound_one() -> None:
    newer = store(b"newer", built="2026-12-01T00:00:00+00:00")
    older = store(b"older", built="2025-12-01T00:00:00+00:00")
    newer.path.write_bytes(b"nEwer")
    assert find_plan(SOURCE, HOST).path == older.path
    older.path.write_bytes(b"old")
    with pytest.raises(PlanDamagedError, match="SHA-256"):
        find_plan(SOURCE, HOST)


def test_an_unreadable_sidecar_of_this_graph_is_reported() -> None:
    sidecar_path(store().path).write_bytes(b"\0")
    with pytest.raises(PlanDamagedError, match="not a sidecar"):
        find_plan(SOURCE, HOST)


def test_plans_beside_the_bundle_are_found(tmp_path: Path) -> None:
    source = sample_source(origin=str(tmp_path / "bundle"))
    write_plan(folder_beside(source.origin), PLAN, sample_sidecar(source))
    assert find_plan(source, HOST).path.parent == tmp_path / "bundle.engines"


def test_a_copied_bundle_finds_the_plan_of_the_same_bytes() -> None:
    store()
    assert find_plan(sample_source(origin="/elsewhere"), HOST).data == PLAN


def rtx(**changes: object) -> Sidecar:
    target = BuiltFor(capabilities=("8.6", "8.9"), system=HOST.system)
    values = {"library": "tensorrt-rtx", "library_version": "1.7", "target": target, **changes}
    return sample_sidecar(**values)


def test_an_rtx_plan_serves_all_its_targets_and_is_rebuilt_with_them() -> None:
    axes = {"prompts": AxisRange(least=1, best=2, most=4)}
    write_plan(plan_folder(), PLAN, rtx(axes=axes))
    host = replace(HOST, library="tensorrt-rtx", version="1.7", capability="8.9")
    assert find_plan(SOURCE, host).data == PLAN
    with pytest.raises(PlanForeignError) as caught:
        find_plan(SOURCE, replace(host, capability="12.0"))
    step = build_step_of(caught.value)
    assert step.targets == ("8.6", "8.9", "12.0")
    assert step.axes == (("prompts", "1,2,4"),)
    with pytest.raises(PlanMissingError):  # TensorRT ignores the plans of another library
        find_plan(SOURCE, HOST)
