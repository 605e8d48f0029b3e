"""The plans of a whole bundle, and what becomes of them when the bundle changes."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace
from plan_samples import HOST, fake_library
from recorded_progress import RecordedProgress
from recorded_tensorrt import Script
from tiny_bundle import graph, negation_model, tiny_files, tiny_manifest, write_tiny_bundle

from samclip.engines.plans.library import Library
from samclip.engines.plans.match import find_plan
from samclip.engines.plans.sidecar import BuildOptions
from samclip.engines.plans.store import (
    StoredPlan,
    list_plans,
    plan_folder,
    replace_sidecar,
    sidecar_path,
)
from samclip.engines.steps import BuildPlans
from samclip.errors import BackendUnavailableError, CapabilityError, InputError, PlanStaleError
from samclip.runtime.bundles.bundle import Bundle
from samclip.runtime.bundles.manifest import LibraryNeed, ShapedGraphs, Variant
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.plans import building, state
from samclip.runtime.plans.building import PlanSettings, build_plans, plan_source
from samclip.runtime.plans.state import plan_state

HALF = Script(layers=(("MATRIX_MULTIPLY", "HALF"),))  # the tiny bundle's variant is called FP16


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """TensorRT on an Orin, and a cache of the test's own."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    opened = fake_library(HALF)
    monkeypatch.setattr(building, "open_library", lambda *_: opened)
    return opened


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny_bundle(tmp_path / "bundle"))


def build(bundle: Bundle, *graphs: str, **settings: object) -> StoredPlan:
    (built,) = build_plans(bundle, PlanSettings(graphs=graphs or ("encoder",), **settings))
    return built.stored


def test_a_plan_serves_the_bundle_it_was_built_from(bundle: Bundle) -> None:
    stored = build(bundle)
    found = find_plan(bundle.source("encoder", "tensorrt"), HOST)
    assert found.path == stored.path
    assert found.sidecar.graph.precision == "fp16"
    assert found.sidecar.graph.origin == str(bundle.path)
    assert plan_state(stored) == "current"


def test_plans_beside_the_bundle_leave_it_as_it_is(bundle: Bundle) -> None:
    stored = build(bundle, beside=True)
    assert stored.path.parent == bundle.path.with_name("bundle.engines")
    Bundle.open(bundle.path).verify()
    assert find_plan(bundle.source("encoder", "tensorrt"), HOST).path == stored.path


def test_all_graphs_are_meant_when_none_is_named(bundle: Bundle) -> None:
    with pytest.raises(BackendUnavailableError, match=r"'mask_decoder'.*no variant for tensorrt"):
        list(build_plans(bundle, PlanSettings()))
    (stored,) = list_plans([plan_folder()])  # the encoder's, built before, stays
    assert stored.sidecar is not None
    assert stored.sidecar.graph.name == "encoder"


def test_plans_of_shapes_are_built_by_aspect_and_by_graph(tmp_path: Path) -> None:
    manifest, files = tiny_manifest(), tiny_files()
    pixels = replace(manifest.preprocessing, image_size=128)
    manifest = replace(manifest, preprocessing=pixels)
    shapes = []
    for height, width in ((96, 128), (128, 96)):
        name = f"encoder-{height}x{width}.onnx"
        said = name.encode()
        files[name] = negation_model() + b"\x32" + bytes([len(said)]) + said  # its doc_string
        variant = Variant(file=name, precision="fp16", opset=18, backends=("tensorrt",))
        shapes.append(
            ShapedGraphs(
                canvas=(height, width),
                encoder=graph(variant),
                mask_decoder=manifest.graphs.mask_decoder,
            )
        )
    write_bundle(tmp_path / "shapes", replace(manifest, shapes=tuple(shapes)), files)
    bundle = Bundle.open(tmp_path / "shapes")

    def built(*graphs: str, **settings: object) -> list[str]:
        plans = build_plans(bundle, PlanSettings(graphs=graphs, **settings))
        return [plan.stored.sidecar.graph.name for plan in plans if plan.stored.sidecar]

    assert built("encoder", aspects=("4:3",)) == ["encoder-96x128"]
    assert [plan.sidecar.graph.name for plan in list_plans([plan_folder()]) if plan.sidecar] == [
        "encoder-96x128"
    ]
    wide = bundle.limited_to("4:3").source("encoder-96x128", "tensorrt")
    assert find_plan(wide, HOST).sidecar.graph.name == "encoder-96x128"
    assert built("encoder-128x96") == ["encoder-128x96"]
    assert built("encoder") == ["encoder", "encoder-96x128", "encoder-128x96"]
    with pytest.raises(CapabilityError, match="no graph 'encoder-128x96'"):
        built("encoder-128x96", aspects=("4:3",))
    with pytest.raises(InputError, match="no encoder for 16:9"):
        built("encoder", aspects=("16:9",))


def test_unknown_graphs_targets_and_precisions_are_refused(bundle: Bundle) -> None:
    with pytest.raises(CapabilityError, match="did you mean 'encoder'"):
        build(bundle, "encodr")
    with pytest.raises(CapabilityError, match="no graph 'clip_head'"):
        build(bundle, "clip_head")
    with pytest.raises(InputError, match="for the GPU of this machine"):
        build(bundle, targets=("sm86",))
    with pytest.raises(BackendUnavailableError, match="tensorrt in bf16"):
        build(bundle, precision="bf16")


def test_variants_for_tensorrt_serve_rtx_where_it_has_none_of_its_own(bundle: Bundle) -> None:
    assert plan_source(bundle, "encoder", "tensorrt-rtx", None).precision == "fp16"
    with pytest.raises(BackendUnavailableError, match="for tensorrt-rtx"):
        plan_source(bundle, "mask_decoder", "tensorrt-rtx", "fp16")


def test_an_older_library_gets_the_form_that_it_reads_and_it_is_said(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    old = next(v for v in manifest.graphs.encoder.variants if "tensorrt" in v.backends)
    newer = LibraryNeed(backend="tensorrt", version="10.14")
    fused = replace(old, attention="fused", needs=(newer,))
    encoder = replace(manifest.graphs.encoder, variants=(fused, old))
    manifest = replace(manifest, graphs=replace(manifest.graphs, encoder=encoder))
    write_bundle(tmp_path / "both", manifest, tiny_files())
    both = Bundle.open(tmp_path / "both")
    progress = RecordedProgress()
    (built,) = build_plans(both, PlanSettings(graphs=("encoder",)), progress)
    assert built.stored.sidecar is not None
    assert built.stored.sidecar.graph.attention is None
    assert "needs tensorrt 10.14 or newer, here is 10.3.0" in progress.notes[0]
    assert plan_source(both, "encoder", "tensorrt", None, "10.14.1").attention == "fused"


def test_a_changed_bundle_makes_its_plans_stale(bundle: Bundle) -> None:
    stored = build(bundle)
    files = {**tiny_files(), "encoder.onnx": negation_model()}
    write_bundle(bundle.path, tiny_manifest(), files, True)
    assert plan_state(stored).startswith("stale")
    changed = Bundle.open(bundle.path).source("encoder", "tensorrt")
    with pytest.raises(PlanStaleError, match="Build it again") as caught:
        find_plan(changed, HOST)
    (step,) = caught.value.steps
    assert isinstance(step, BuildPlans)
    assert step.origin == str(bundle.path)


def test_if_stale_does_no_work_while_a_plan_fits(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = build(bundle, options=BuildOptions(level=4))  # which nobody asks for later
    sidecar = stored.sidecar
    assert sidecar is not None
    replace_sidecar(stored, replace(sidecar, gate=replace(sidecar.gate, state="passed")))
    settings = PlanSettings(graphs=("encoder",), if_stale=True)
    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "read", None)  # no graph is read
        patch.setattr(building, "build_plan", None)
        (kept,) = build_plans(bundle, settings)
    assert kept.reused
    assert kept.stored.path == stored.path


@pytest.mark.parametrize("what", ["none", "damaged", "unjudged", "another library"])
def test_if_stale_builds_or_judges_what_the_runtime_would_not_take(
    what: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    if what != "none":
        stored = build(bundle)
        sidecar = stored.sidecar
        assert sidecar is not None
        if what != "unjudged":
            replace_sidecar(stored, replace(sidecar, gate=replace(sidecar.gate, state="passed")))
        if what == "damaged":
            stored.path.write_bytes(b"worn out")
    if what == "another library":
        newer = dataclasses.replace(library, version="10.4.0")
        monkeypatch.setattr(building, "open_library", lambda *_: newer)
    asked = []
    inner = building.build_plan
    monkeypatch.setattr(building, "build_plan", lambda *r: asked.append(r) or inner(*r))
    (built,) = build_plans(bundle, PlanSettings(graphs=("encoder",), if_stale=True))
    assert len(asked) == 1
    assert built.reused == (what == "unjudged")


def test_states_of_plans_that_are_of_no_use(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = build(bundle)
    monkeypatch.setattr(state, "version", lambda _: "10.9.0")
    assert plan_state(stored) == "foreign: tensorrt is 10.9.0"
    shutil.rmtree(bundle.path)
    assert plan_state(stored) == "bundle gone"
    sidecar_path(stored.path).write_bytes(b"{")
    (damaged,) = list_plans([plan_folder()])
    assert plan_state(damaged).startswith("damaged: the sidecar")
