"""The gate in the commands: `engine build`, `check`, `list` and `doctor`, with stand-ins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gate_child
import pytest
from cli_fakes import Run
from fake_tensorrt import MAGIC
from gate_samples import residual_model
from msgspec.structs import replace
from onnx import helper, numpy_helper
from plan_samples import fake_library
from recorded_tensorrt import Script
from tiny_bundle import WEIGHT, make_model, tiny_files, tiny_manifest, write_tiny_bundle

from samclip.engines.base import GraphSource, Probe
from samclip.engines.plans.gate import building as gate_building
from samclip.engines.plans.gate import judge
from samclip.engines.plans.gate.blocks import with_outputs
from samclip.engines.plans.store import list_plans, plan_folder
from samclip.runtime.bundles.manifest import Graph, Manifest, TensorSpec, Variant
from samclip.runtime.bundles.writing import write_bundle
from samclip.runtime.plans import bisection, building, check


def affine(factor: float) -> bytes:
    """The encoder of the tiny bundle, its weights inside and multiplied."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    shape = ["n", 3]
    weight = numpy_helper.from_array((WEIGHT * factor).astype("float32"), "w")
    return make_model(nodes, {"x": ["n", 4]}, {"y": shape, "z": shape}, [weight])


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """TensorRT on a GPU, whose plan of the encoder is right until a test changes it."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    script = Script(
        inputs={"x": ("FLOAT", (-1, 4), ("prompts", None))},
        outputs={"y": ("FLOAT", (-1, 3)), "z": ("FLOAT", (-1, 3))},
        layers=(("MATRIX_MULTIPLY", "HALF"),),
        plan=MAGIC + affine(1),
    )
    opened = fake_library(script)
    for module in (building, check):
        monkeypatch.setattr(module, "open_library", lambda *_: opened)
    monkeypatch.setattr(gate_building, "probe_library", lambda _: Probe(True, "as if it were here"))
    monkeypatch.setattr(judge, "START", gate_child.START)
    return script


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "my bundle")


def test_a_wrong_plan_is_refused_with_its_table(run: Run, bundle: Path, script: Script) -> None:
    script.plan = MAGIC + affine(2)
    result = run("engine", "build", bundle, "--graph", "encoder", "--level", "2")
    assert result.exit_code == 1
    text = re.sub(r"\s+", " ", result.stderr)
    assert "builds no plan of 'encoder' (fp16) that computes what FP32 computes" in text
    assert re.search(r"- y alone: magnitude 0\.5000, at least 0\.968\d* is asked for", text)
    assert list_plans([plan_folder()]) == []


def test_a_plan_without_the_gate_is_shown_and_can_be_judged_later(
    run: Run, bundle: Path, script: Script
) -> None:
    script.plan = MAGIC + affine(2)
    built = run("engine", "build", bundle, "--graph", "encoder", "--no-gate")
    assert built.exit_code == 0
    assert "NOT JUDGED (--no-gate)" in built.stderr
    (found,) = json.loads(run("engine", "list", "--json").stdout)["plans"]
    assert found["sidecar"]["gate"]["state"] == "skipped"
    report = json.loads(run("doctor", "--json").stdout)
    (finding,) = [one for one in report["findings"] if one["about"] == "plans"]
    assert "1 plans were built without the gate: encoder.fp16" in finding["detail"]
    result = run("engine", "check", "encoder.fp16", "--json")
    assert result.exit_code == 1
    assert "1 of 1 plans do not compute what FP32 computes" in result.stderr
    (judged,) = json.loads(result.stdout)["plans"]
    assert judged["gate"]["state"] == "failed"
    assert "WRONG" in re.sub(r"\s+", " ", run("engine", "list").stdout)
    (finding,) = json.loads(run("doctor", "--json").stdout)["findings"][-1:]
    assert "1 plans are wrong" in finding["detail"]


def test_right_plans_stay_right(run: Run, bundle: Path) -> None:
    built = run("engine", "build", bundle, "--graph", "encoder")
    assert "agrees with FP32" in built.stderr
    result = run("engine", "check", "--table")
    assert result.exit_code == 0
    assert "agrees with FP32" in result.stderr
    text = re.sub(r"\s+", " ", result.stdout)
    assert "noise_cosine" in text
    assert "replayed" in text
    bundle.rename(bundle.with_name("elsewhere"))
    result = run("engine", "check")
    assert result.exit_code != 0
    assert "there is no bundle at" in result.stderr


def test_the_first_block_that_departs_is_named(
    run: Run, tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three blocks the second is computed with another factor."""
    right, wrong = residual_model((1, 2, 3)), residual_model((1, 9, 3))
    source = GraphSource("encoder", wrong)
    names = ("b0", "b1", "b2")
    script.inputs = {"x": ("FLOAT", (-1, 4), ("prompts", None))}
    script.plan = lambda onnx, *_: MAGIC + with_outputs(source, names).onnx
    opened = fake_library(script)
    monkeypatch.setattr(bisection, "open_library", lambda *_: opened)
    monkeypatch.setattr(bisection, "why_not_here", lambda *_: None)
    files = {**tiny_files(), "encoder.onnx": right}
    write_bundle(tmp_path / "blocks", blocks_manifest(), files)
    result = run("engine", "bisect", tmp_path / "blocks", "--json")
    assert result.exit_code == 0, result.stderr
    assert "the first output that departs is 'b1'" in result.stderr
    found = json.loads(result.stdout)
    assert [row["output"] for row in found["blocks"]] == ["b0", "b1", "b2", "y"]
    assert found["departed"]["output"] == "b1"
    assert list_plans([plan_folder()]) == []


def blocks_manifest() -> Manifest:
    """A manifest whose encoder is x -> y, Nx4, without a weights file."""
    x = TensorSpec(name="x", dtype="float32", shape=("n", 4))
    y = TensorSpec(name="y", dtype="float32", shape=("n", 4))
    variant = Variant(file="encoder.onnx", opset=18, backends=("onnxruntime", "tensorrt"))
    encoder = Graph(inputs=(x,), outputs=(y,), variants=(variant,))
    manifest = tiny_manifest()
    return replace(manifest, graphs=replace(manifest.graphs, encoder=encoder))
