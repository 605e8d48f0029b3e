"""Measured choices: kept, found again where they hold, and ignored where they do not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import FakeBackend, FakeBundle, fake_manifest

import samclip
from samclip.engines import registry
from samclip.engines.base import EngineOptions, Probe, Times, Traits
from samclip.engines.found_here import keep_fact
from samclip.engines.plans.gate.reduced import JudgedGraph, _key, _name, with_digest
from samclip.engines.plans.gate.verdict import Verdict
from samclip.engines.plans.sidecar import identify_key
from samclip.engines.steps import MeasureChoice
from samclip.errors import BackendUnavailableError, InputError, WriteError
from samclip.runtime import loading, measured_choice
from samclip.runtime.backend_choice import choose_for, choose_variants
from samclip.runtime.measured_choice import (
    ChoiceKey,
    MeasuredChoice,
    Speed,
    find_choice,
    keep_choice,
    try_choices,
)

NAMES = ("gpu", "first", "second")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "choices"


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bundle in FP32 and FP16 for a GPU's backend and two of the CPU, by rule in this order."""
    manifest = fake_manifest()
    variants = tuple(
        msgspec.structs.replace(one, backends=NAMES) for one in manifest.graphs.encoder.variants
    )
    encoder = msgspec.structs.replace(manifest.graphs.encoder, variants=variants)
    graphs = msgspec.structs.replace(manifest.graphs, encoder=encoder)
    made = FakeBundle(msgspec.structs.replace(manifest, graphs=graphs))
    monkeypatch.setattr(loading, "find_bundle", lambda name: name)
    monkeypatch.setattr(loading.Bundle, "open", lambda path, public_key=None: made)
    on_host = [FakeBackend(name, traits=Traits(on_host=True)) for name in NAMES[1:]]
    monkeypatch.setattr(registry, "BACKENDS", tuple(on_host))
    return made


def make(bundle: Any, threads: int | None = None) -> MeasuredChoice:
    """Second in FP16, then first in FP32, then second in FP32."""
    order = (("second", "fp16", 10.0), ("first", "fp32", 20.0), ("second", "fp32", 30.0))
    speeds = [Speed(backend=b, precision=p, median=ms, samples=(ms,)) for b, p, ms in order]  # type: ignore[arg-type]
    key = ChoiceKey.here(bundle, threads)
    return MeasuredChoice(key=key, date="2026-01-01T00:00:00+00:00", speeds=tuple(speeds))


def test_auto_takes_what_was_measured(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_for(bundle).backend.name == "first"
    assert find_choice(bundle) is None
    try_choices()
    place = keep_choice(make(bundle))
    assert find_choice(bundle) == make(bundle)
    assert place.stat().st_mode & 0o777 == 0o600
    choice = choose_for(bundle)
    assert (choice.backend.name, choice.precision, choice.measured) == ("second", "fp16", 10.0)
    with samclip.load("any") as model:
        assert (model.backend, bundle.requested[-1]) == ("second", ("encoder", "second", "fp16"))
    asked = choose_for(bundle, precision="fp32")
    assert (asked.backend.name, asked.precision, asked.measured) == ("first", "fp32", 20.0)
    with samclip.load("any", "first") as model:  # by name: the bundle's own preference
        assert bundle.requested[-1] == ("encoder", "first", None)
    gpu = FakeBackend("gpu")
    monkeypatch.setattr(registry, "BACKENDS", (gpu, *registry.BACKENDS))
    assert choose_for(bundle).backend is gpu
    assert choose_for(bundle).measured is None


class Reducing(FakeBackend):
    """Computes in BF16 too, where this machine is made for it."""

    suits = True
    precision_facts = ("a processor",)

    def probe_precision(self, precision: str, *, ask: bool = True) -> Probe:
        assert not ask, "loading tries nothing"
        return Probe(self.suits, "slow here", "leave it out")

    def time_layers(self, precision: str) -> Times:
        raise NotImplementedError


def judge(state: str, backend: Any, bundle: Any) -> None:
    """Keep a verdict on the encoder of a bundle in BF16."""
    variant = choose_variants(bundle, backend, "fp32")["encoder"]
    key = _key(backend, identify_key(bundle.graph_key("encoder", variant)), "bf16")
    verdict = Verdict(state=state)  # type: ignore[arg-type]
    keep_fact(_name(key), with_digest(JudgedGraph(key=key, verdicts=(verdict,))))


def test_auto_computes_in_bf16_only_where_the_bundle_was_judged_in_it(
    bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reducing = Reducing("second", traits=Traits(on_host=True, engine_precisions=("bf16",)))
    monkeypatch.setattr(registry, "BACKENDS", (registry.BACKENDS[0], reducing))
    try_choices()
    measured = make(bundle)
    fastest = msgspec.structs.replace(
        measured.speeds[2], engine_precision="bf16", median=5.0, samples=(5.0,)
    )
    keep_choice(msgspec.structs.replace(measured, speeds=(fastest, *measured.speeds)))

    def taken(precision: str | None = None) -> tuple[str, str | None, str]:
        choice = choose_for(bundle, precision=precision)
        return choice.backend.name, choice.precision, choice.engine_precision

    without = ("second", "fp16", "fp32")
    assert taken() == without  # it was measured, and never judged
    judge("failed", reducing, bundle)
    assert taken() == without
    judge("passed", reducing, bundle)
    assert taken() == ("second", "fp32", "bf16")
    assert taken("fp32") == ("first", "fp32", "fp32")  # who asks for FP32 gets nothing else
    reducing.suits = False
    assert taken() == without
    reducing.suits, reducing.precision_facts = True, ("another processor",)
    assert taken() == without


def test_an_engine_precision_is_asked_of_the_backends_that_have_it(
    bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailableError, match="no backend works"):
        samclip.load("any", engine_precision="bf16")
    with pytest.raises(BackendUnavailableError, match="'first' does not compute in bf16"):
        samclip.load("any", "first", engine_precision="bf16")
    with samclip.load("any", "first", engine_precision="fp32") as model:
        assert model.engine_precision == "fp32"
    for wrong in ("fp16", "", 16):
        with pytest.raises(InputError, match=r"no engine_precision .* fp32, bf16, or None"):
            samclip.load("any", engine_precision=wrong)  # type: ignore[arg-type]


def test_a_measurement_holds_for_its_key_alone(
    bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_choices()
    keep_choice(make(bundle))
    assert find_choice(bundle, threads=1) is None
    keep_choice(make(bundle, threads=1))
    assert find_choice(bundle, threads=1) == make(bundle, threads=1)
    assert choose_for(bundle, EngineOptions(threads=1)).measured == 10.0
    other = FakeBundle(msgspec.structs.replace(bundle.manifest, name="other"))
    assert find_choice(other) is None  # type: ignore[arg-type]
    for name, value in (
        ("usable_cores", lambda: 99),
        ("processor_name", lambda: "another"),
        ("_installed", lambda: {"onnxruntime": "0"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(measured_choice, name, value)
            assert find_choice(bundle) is None
    assert find_choice(bundle) is not None


def cut(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-40])


def add_field(place: Path) -> None:
    place.write_text(place.read_text().replace('"date"', '"extra": 1, "date"'))


def change_key(place: Path) -> None:
    place.write_text(place.read_text().replace('"threads": null', '"threads": 3'))


def make_negative(place: Path) -> None:
    place.write_text(place.read_text().replace('"median": 10.0', '"median": -10.0'))


def nest(place: Path) -> None:
    place.write_text("[" * 100_000)


def open_to_all(place: Path) -> None:
    place.chmod(0o666)


def link(place: Path) -> None:
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


def grow(place: Path) -> None:
    place.write_text(place.read_text() + " " * measured_choice.MAX_BYTES)


def open_folder(place: Path) -> None:
    place.parent.chmod(0o777)


@pytest.mark.parametrize(
    "spoil",
    [cut, add_field, change_key, make_negative, nest, open_to_all, link, grow, open_folder],
)
def test_what_is_damaged_or_open_to_others_is_ignored_with_a_warning(
    bundle: Any, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    try_choices()
    spoil(keep_choice(make(bundle)))
    choice = choose_for(bundle)
    assert (choice.backend.name, choice.measured) == ("first", None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "is ignored, the usual one is made" in record.getMessage()
    assert vars(record)["steps"] == (MeasureChoice("fake"),)


def test_a_folder_that_cannot_be_used_is_found_before_the_measurement(
    bundle: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        try_choices()
    with pytest.raises(WriteError, match="could not be written"):
        keep_choice(make(bundle))
    assert choose_for(bundle).measured is None
    for name in ("SAMCLIP_CACHE_DIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, os.devnull + "/x")
    assert choose_for(bundle).measured is None
