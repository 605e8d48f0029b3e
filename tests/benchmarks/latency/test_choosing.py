"""The measurement of backends for `auto`: what may be measured, in which order, what it finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import FakeBackend, FakeBundle, fake_manifest
from typer.testing import CliRunner

from samclip.benchmarks.cli import choose as command
from samclip.benchmarks.cli.main import app
from samclip.benchmarks.latency.choosing import list_candidates, measure_choice, rank
from samclip.engines import registry
from samclip.engines.base import EngineOptions, Probe, Times, Traits
from samclip.engines.plans.gate import reduced
from samclip.errors import BackendUnavailableError
from samclip.runtime.backend_choice import choose_for
from samclip.runtime.bundles.manifest import GateRow, Manifest, ParityRow, Reduction
from samclip.runtime.measured_choice import Speed

ON_HOST = Traits(on_host=True)


class Absent(FakeBackend):
    def probe(self) -> Probe:
        return Probe(False, "it is not installed", "install it")


class Broken(FakeBackend):
    def load(self, source: Any, options: EngineOptions) -> Any:
        raise BackendUnavailableError("it does not start")


def parity(graph: str, error: float = 1e-6) -> ParityRow:
    return ParityRow(
        graph=graph,
        variant="fp32",
        output="x",
        image="a.jpg",
        max_abs_error=error,
        max_rel_error=error,
        tolerance=1e-4,
    )


def make_manifest(*gates: float, **errors: float) -> Manifest:
    """All graphs verified, and FP16 with a gate of limit 0.9 for each value; no gate: none."""
    manifest = fake_manifest()
    backends = ("slow", "fast", "absent", "broken", "gpu")
    graphs = {}
    for name in ("encoder", "mask_decoder", "clip_head"):
        graph = getattr(manifest.graphs, name)
        own = tuple(msgspec.structs.replace(one, backends=backends) for one in graph.variants)
        graphs[name] = msgspec.structs.replace(graph, variants=own)
    rows = tuple(
        GateRow(measure="mask_iou_mean", value=value, limit=0.9, samples=4) for value in gates
    )
    return msgspec.structs.replace(
        manifest,
        graphs=msgspec.structs.replace(manifest.graphs, **graphs),
        parity=tuple(parity(name, errors.get(name, 1e-6)) for name in graphs),
        reductions=(Reduction(precision="fp16", photos=2, gates=rows),),
    )


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    found = (
        FakeBackend("gpu"),
        Absent("absent", traits=ON_HOST),
        Broken("broken", traits=ON_HOST),
        Twice("slow", delay=0.04, traits=ON_HOST),
        Twice("fast", delay=0.0, traits=ON_HOST),
    )
    monkeypatch.setattr(registry, "BACKENDS", found)


class Twice(FakeBackend):
    """May be loaded again."""

    def load(self, source: Any, options: EngineOptions) -> Any:
        self.engines.clear()
        engine: Any = super().load(source, options)
        return engine


def refusals(manifest: Manifest, *asked: str) -> dict[str, str]:
    bundle: Any = FakeBundle(manifest)
    return {one.name: one.refusal for one in list_candidates(bundle, asked)}


@pytest.mark.usefixtures("backends")
def test_only_what_was_verified_is_measured() -> None:
    """FP32 by its parity, other precisions by their gates or because they are asked for."""
    passed = refusals(make_manifest(0.95))
    assert list(passed)[:2] == ["absent in fp32", "absent in fp16"]
    assert passed["absent in fp32"] == "it is not installed"
    assert passed["slow in fp32"] == passed["fast in fp16"] == ""
    assert not any(name.startswith("gpu") for name in passed)
    assert "its gate mask_iou_mean failed" in refusals(make_manifest(0.95, 0.8))["fast in fp16"]
    assert "gates were not measured" in refusals(make_manifest())["fast in fp16"]
    assert refusals(make_manifest(), "fp16")["fast in fp16"] == ""
    assert set(refusals(make_manifest(), "fp16")) == {
        f"{name} in fp16" for name in ("absent", "broken", "slow", "fast")
    }
    beyond = refusals(make_manifest(mask_decoder=1.0))["fast in fp32"]
    assert beyond == "the parity of mask_decoder (fp32) is beyond its tolerance"
    unverified = msgspec.structs.replace(make_manifest(), parity=())
    assert "parity of encoder (fp32) was not measured" in refusals(unverified)["fast in fp32"]


@pytest.mark.usefixtures("backends")
def test_the_fastest_comes_first_and_failures_are_said() -> None:
    bundle: Any = FakeBundle(make_manifest())
    choice, left_out = measure_choice(bundle, list_candidates(bundle), rounds=3)
    assert [(one.backend, one.precision) for one in choice.speeds] == [
        ("fast", "fp32"),
        ("slow", "fp32"),
    ]
    slow = choice.speeds[1]
    assert len(slow.samples) == 3
    assert slow.median >= 80  # the encoder and the mask decoder, 40 ms each
    reasons = dict(left_out)
    assert reasons["absent in fp32"] == "it is not installed"
    assert reasons["broken in fp32"] == "it does not start"
    unverified: Any = FakeBundle(msgspec.structs.replace(make_manifest(), parity=()))
    with pytest.raises(BackendUnavailableError, match=r"nothing can be measured.*was not measured"):
        measure_choice(unverified, list_candidates(unverified), rounds=3)


class Reducing(Twice):
    """Computes in BF16 too: graphs whose names are among `wrong` depart in it."""

    suits = True
    precision_facts = ("a processor",)
    wrong: tuple[str, ...] = ()

    def probe_precision(self, precision: str, *, ask: bool = True) -> Probe:
        return Probe(self.suits, f"{precision} is slow here", "leave it out")

    def time_layers(self, precision: str) -> Times:
        raise NotImplementedError


@pytest.fixture
def reducing(monkeypatch: pytest.MonkeyPatch, backends: None) -> Reducing:
    """A backend that has BF16, whose graphs are judged without a process."""
    made = Reducing("fast", traits=replace(ON_HOST, engine_precisions=("bf16",)))
    monkeypatch.setattr(registry, "BACKENDS", (made,))

    def admit(backend: Any, source: Any, options: EngineOptions) -> EngineOptions:
        asked.append(source.name)
        return replace(options, precision="fp32") if source.name in made.wrong else options

    asked: list[str] = []
    monkeypatch.setattr(reduced, "admit_graph", admit)
    monkeypatch.setattr(made, "asked", asked, raising=False)
    return made


def test_engines_in_bf16_are_measured_once_every_graph_was_judged(reducing: Reducing) -> None:
    bundle: Any = FakeBundle(make_manifest())
    listed = {one.name: one.refusal for one in list_candidates(bundle)}
    assert listed["fast in fp32, engines in bf16"] == ""
    choice, _ = measure_choice(bundle, list_candidates(bundle), rounds=3)
    found = {(one.precision, one.engine_precision) for one in choice.speeds}
    assert found == {("fp32", "fp32"), ("fp32", "bf16")}
    assert set(reducing.asked) == {"encoder", "mask_decoder", "clip_head"}  # type: ignore[attr-defined]
    reducing.wrong = ("encoder",)
    _, left_out = measure_choice(bundle, list_candidates(bundle), rounds=3)
    assert (
        "encoder of 'fake' does not compute in bf16"
        in dict(left_out)["fast in fp32, engines in bf16"]
    )
    reducing.suits = False
    listed = {one.name: one.refusal for one in list_candidates(bundle)}
    assert listed["fast in fp32, engines in bf16"] == "bf16 is slow here"
    beyond: Any = FakeBundle(make_manifest(mask_decoder=1.0))
    listed = {one.name: one.refusal for one in list_candidates(beyond)}
    assert "beyond its tolerance" in listed["fast in fp32, engines in bf16"]


def test_noise_does_not_change_the_order_by_rule() -> None:
    def speed(backend: str, median: float) -> Speed:
        return Speed(backend=backend, precision="fp32", median=median, samples=(median,))

    ranked = rank([speed("a", 102), speed("b", 100), speed("c", 104), speed("d", 50)])
    assert [one.backend for one in ranked] == ["d", "a", "b", "c"]


@pytest.mark.usefixtures("backends")
def test_the_command_keeps_what_auto_then_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle: Any = FakeBundle(make_manifest())
    monkeypatch.setattr(command, "find_bundle", lambda name: name)
    monkeypatch.setattr(command.Bundle, "open", lambda path: bundle)
    monkeypatch.setattr(registry, "BACKENDS", registry.BACKENDS[1:])
    assert choose_for(bundle).backend.name == "broken"
    result = CliRunner().invoke(app, ["choose", "any", "--rounds", "3"])
    assert result.exit_code == 0, result.output
    assert "auto takes fast in fp32 for fake" in result.stdout
    assert "not measured: broken in fp32: it does not start" in result.stderr
    choice = choose_for(bundle)
    assert (choice.backend.name, choice.precision) == ("fast", "fp32")
    refused = CliRunner().invoke(app, ["choose", "any", "--precision", "int8"])
    assert refused.exit_code == 2
    assert "has no encoder in int8" in refused.stderr
