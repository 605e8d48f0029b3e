"""The fake model, its graphs timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes import FakeBackend, FakeBundle, fake_manifest
from region_fakes import REGION_GRAPHS, region_manifest

from samclip.benchmarks.latency.contenders import Contender, Variant
from samclip.benchmarks.latency.timed import StageClock, TimedBackend
from samclip.engines.base import EngineOptions
from samclip.runtime.model import Model


def timed_model(
    delay: float = 0.0,
    clip: bool = True,
    path: Path = Path("fake"),
    canvases: tuple[tuple[int, int], ...] = (),
) -> tuple[Model, TimedBackend]:
    manifest = fake_manifest(clip=clip, trained=False, canvases=canvases)
    bundle: Any = FakeBundle(manifest, path=path)
    backend = TimedBackend(FakeBackend(delay=delay), StageClock())
    return Model(bundle, backend, EngineOptions()), backend


def contender(
    name: str = "a",
    delay: float = 0.0,
    clip: bool = True,
    canvases: tuple[tuple[int, int], ...] = (),
) -> Contender:
    return Contender(name, Variant("fake"), *timed_model(delay, clip, canvases=canvases))


def region_contender(name: str = "a", delay: float = 0.0) -> Contender:
    """A model that names boxes."""
    bundle: Any = FakeBundle(region_manifest(trained=False))
    backend = TimedBackend(FakeBackend(delay=delay, graphs=REGION_GRAPHS), StageClock())
    return Contender(name, Variant("fake"), Model(bundle, backend, EngineOptions()), backend)
