"""Puts this folder on the path, for `made_data`, and gives a fake bundle to the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend, FakeBundle, fake_manifest
from region_fakes import REGION_GRAPHS, region_manifest

from samclip.benchmarks.latency.contenders import Variant
from samclip.benchmarks.latency.timed import StageClock, TimedBackend
from samclip.engines.base import EngineOptions
from samclip.runtime.model import Model


@dataclass(frozen=True)
class PlacedBundle(FakeBundle):
    """A fake bundle with a folder, whose manifest file can be hashed."""

    path: Path = Path()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Make `samclip.load` and `open_variant` give fresh fake models; lists what was asked for.

    Of a name with "untrained", "sam", "regions" or "shapes" in it, models that are so.
    """
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}\n")
    asked: list[dict[str, Any]] = []

    def make(
        name: str, wrap: Callable[[FakeBackend], Any], aspects: Sequence[str] | None = None
    ) -> Model:
        trained, clip = "untrained" not in name, "sam" not in name
        canvases = ((192, 256), (256, 192)) if "shapes" in name else ()
        manifest = fake_manifest(trained=trained, clip=clip, canvases=canvases)
        backend = FakeBackend()
        if "regions" in name:
            manifest, backend = region_manifest(trained=trained), FakeBackend(graphs=REGION_GRAPHS)
        bundle: Any = PlacedBundle(manifest, path=tmp_path / "bundle")
        return Model(bundle.limited_to(aspects), wrap(backend), EngineOptions())

    def load(name: str | None, **options: Any) -> Model:
        asked.append({"name": name, **options})
        return make(name or "", lambda backend: backend, options.get("aspects"))

    def load_timed(
        variant: Variant, cache: Path | None, wrap: Callable[..., TimedBackend]
    ) -> tuple[Model, TimedBackend]:
        asked.append({"name": variant.bundle, "threads": variant.threads, "cache": cache})
        made: list[TimedBackend] = []

        def time(backend: FakeBackend) -> TimedBackend:
            made.append(wrap(backend, StageClock()))
            return made[0]

        return make(variant.bundle or "", time, variant.aspects), made[0]

    monkeypatch.setattr("samclip.load", load)
    monkeypatch.setattr("samclip.benchmarks.cli.session.open_variant", load_timed)
    monkeypatch.delenv("SAMCLIP_DEBUG", raising=False)
    return asked


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Variant]:
    """Open fakes in place of bundles; lists what was asked for."""
    (tmp_path / "manifest.json").write_text("{}\n")
    asked: list[Variant] = []

    def open_variant(variant: Variant, cache: Path, wrap: Any) -> tuple[Model, TimedBackend]:
        asked.append(variant)
        bundle: Any = FakeBundle(fake_manifest(), path=tmp_path)
        backend = TimedBackend(FakeBackend(), StageClock())
        return Model(bundle, backend, EngineOptions()), backend

    for module in ("samclip.benchmarks.cli.session", "samclip.benchmarks.latency.rounds"):
        monkeypatch.setattr(f"{module}.open_variant", open_variant)
    return asked


@pytest.fixture
def bench() -> Callable[..., Any]:
    """Run `samclip-bench` with these arguments: exit code, stdout and stderr apart."""
    from typer.testing import CliRunner

    from samclip.benchmarks.cli.main import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
