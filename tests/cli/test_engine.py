"""`samclip engine build`, `list` and `remove`, with a stand-in for TensorRT."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_fakes import Run
from plan_samples import fake_library
from recorded_tensorrt import Script
from tiny_bundle import write_tiny_bundle

from samclip.engines.plans.library import DriverState
from samclip.engines.plans.store import list_plans, plan_folder
from samclip.runtime.plans import building


@pytest.fixture(autouse=True)
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """The answers of the stand-in, with a GPU and a fresh cache."""
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    script = Script(
        inputs={"x": ("FLOAT", (-1, 4), ("prompts", None))},
        layers=(("MATRIX_MULTIPLY", "HALF"),),
    )
    opened = fake_library(script)
    monkeypatch.setattr(building, "open_library", lambda *_: opened)
    return script


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "my bundle")


def build(run: Run, bundle: Path, *arguments: object) -> None:
    assert run("engine", "build", bundle, "--graph", "encoder", *arguments).exit_code == 0


def test_a_build_reports_the_plan_and_its_path(run: Run, bundle: Path) -> None:
    result = run("engine", "build", bundle, "--graph", "encoder")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "encoder (fp16): building with tensorrt" in result.stderr
    (stored,) = list_plans([plan_folder()])
    assert str(stored.path) in result.stderr
    again = run("engine", "build", bundle, "--graph", "encoder")
    assert "was there already" in again.stderr


def test_options_reach_the_builder_and_the_json(run: Run, bundle: Path, script: Script) -> None:
    options = ["--prompts", "1,2,3", "--workspace", "512", "--level", "4", "--strip-weights"]
    result = run("engine", "build", bundle, "--graph", "encoder", *options, "--json")
    (record,) = json.loads(result.stdout)["plans"]
    assert record["reused"] is False
    assert record["sidecar"]["options"] == {
        "workspace": 512 * 2**20,
        "level": 4,
        "strip_weights": True,
    }
    assert script.named("set_shape") == [("x", (1, 4), (2, 4), (3, 4))]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--prompts", "3,2,1"], "sizes must rise", 2),
        (["--target", "sm86"], "compute capability 8.7", 2),
        (["--target", "ampere"], "Write it as sm86", 2),
        (["--graph", "decoder"], "no graph 'decoder'", 1),
        (["--level", "9"], "level", 2),
        (["--force", "--if-stale"], "give one of them", 2),
        (["--backend", "openvino"], "backend", 2),
    ],
)
def test_bad_options_are_refused(
    arguments: list[str], message: str, code: int, run: Run, bundle: Path
) -> None:
    result = run("engine", "build", bundle, *arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_without_a_gpu_the_remedy_is_shown(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from samclip.engines.plans import library

    state = DriverState(None, None, "there is no NVIDIA driver here")
    monkeypatch.setattr(library, "examine_gpu", lambda _: state)
    monkeypatch.setattr(building, "open_library", library.open_library)
    result = run("engine", "build", bundle)
    assert result.exit_code == 1
    assert "there is no NVIDIA driver here" in result.stderr
    assert "--backend tensorrt-rtx --target sm86" in result.stderr


def test_a_failed_build_shows_tensorrts_errors(run: Run, bundle: Path, script: Script) -> None:
    script.errors = (("/blocks.0/Attention", "Attention", "no importer"),)
    result = run("engine", "build", bundle, "--graph", "encoder")
    assert result.exit_code == 1
    assert "node '/blocks.0/Attention' (Attention): no importer" in result.stderr


def test_list_shows_size_and_state(run: Run, bundle: Path) -> None:
    assert "no plans yet" in run("engine", "list").stderr
    build(run, bundle)
    text = re.sub(r"\s+", " ", run("engine", "list").stdout)
    assert "1 plans" in text
    assert "8.7" in text
    (record,) = json.loads(run("engine", "list", "--json").stdout)["plans"]
    assert record["state"] == "current"
    assert record["bytes"] > 0
    assert record["sidecar"]["graph"]["origin"] == str(bundle)


def test_plans_next_to_a_bundle_are_listed_with_it(run: Run, bundle: Path) -> None:
    build(run, bundle, "--beside")
    assert json.loads(run("engine", "list", "--json").stdout)["plans"] == []
    assert len(json.loads(run("engine", "list", bundle, "--json").stdout)["plans"]) == 1
    result = run("engine", "remove", "--all", "--bundle", bundle)
    assert "removed 1 plans" in result.stderr


def test_remove_takes_named_and_outdated_plans(run: Run, bundle: Path) -> None:
    build(run, bundle)
    assert run("engine", "remove").exit_code == 2
    unknown = run("engine", "remove", "decoder")
    assert unknown.exit_code == 2
    assert "there are: encoder.fp16" in unknown.stderr
    assert "removed 0 plans" in run("engine", "remove", "--outdated").stderr
    bundle.rename(bundle.with_name("elsewhere"))
    result = run("engine", "remove", "--outdated", "--json")
    (removed,) = json.loads(result.stdout)["removed"]
    assert removed["state"] == "bundle gone"
    assert list_plans([plan_folder()]) == []


def test_remove_by_name(run: Run, bundle: Path) -> None:
    build(run, bundle)
    assert "removed 1 plans" in run("engine", "remove", "encoder.fp16").stderr
    assert not list(plan_folder().glob("*.plan*"))


def test_the_lowering_may_be_left_out_of_a_name(run: Run, bundle: Path) -> None:
    """As in the command's own example, for a graph that has lowerings."""
    build(run, bundle)
    (plan,) = plan_folder().glob("*.plan")
    for suffix in (".plan", ".plan.json"):
        other = plan.name.replace("encoder.", "encoder.chunk.").removesuffix(".plan") + suffix
        plan.with_name(plan.name.removesuffix(".plan") + suffix).rename(plan.with_name(other))
    for name in ("encoder.fp32", "decoder.fp16", "fp16", "encoder.fp16.chunk", "enc.fp16", ""):
        assert run("engine", "remove", name).exit_code == 2
    assert "removed 1 plans" in run("engine", "remove", "encoder.fp16").stderr
    assert not list(plan_folder().glob("*.plan*"))


@pytest.mark.parametrize("command", ["build", "list", "remove"])
def test_every_command_has_examples(command: str, run: Run) -> None:
    text = re.sub(r"\s+", " ", run("engine", command, "--help").stdout)
    assert f"samclip engine {command}" in text.partition("Examples:")[2]
