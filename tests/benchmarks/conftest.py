"""Puts this folder on the path, for `made_data`, and gives a fake bundle to the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend, FakeBundle, fake_manifest

from samclip.engines.base import EngineOptions
from samclip.runtime.model import Model


@dataclass(frozen=True)
class PlacedBundle(FakeBundle):
    """A fake bundle with a folder, whose manifest file can be hashed."""

    path: Path = Path()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Make `samclip.load` return fresh fake models; lists what it was asked for."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}\n")
    asked: list[dict[str, Any]] = []

    def load(name: str | None, **options: Any) -> Model:
        asked.append({"name": name, **options})
        trained, clip = "untrained" not in (name or ""), "sam" not in (name or "")
        manifest = fake_manifest(trained=trained, clip=clip)
        bundle: Any = PlacedBundle(manifest, path=tmp_path / "bundle")
        return Model(bundle, FakeBackend(), EngineOptions())

    monkeypatch.setattr("samclip.load", load)
    monkeypatch.delenv("SAMCLIP_DEBUG", raising=False)
    return asked


@pytest.fixture
def bench() -> Callable[..., Any]:
    """Run `samclip-bench` with these arguments: exit code, stdout and stderr apart."""
    from typer.testing import CliRunner

    from samclip.benchmarks.cli.main import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
