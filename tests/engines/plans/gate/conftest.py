"""A cache of the test's own, and the gate's child on the stand-ins."""

from __future__ import annotations

from pathlib import Path

import gate_child
import pytest

from samclip.engines.base import Probe
from samclip.engines.plans.gate import building, judge


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of caches; a plan can be run here, in a child that has stand-ins."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAMCLIP_CACHE_DIR", str(folder))
    monkeypatch.setattr(judge, "START", gate_child.START)
    monkeypatch.setattr(building, "probe_library", lambda _: Probe(True, "as if it were here"))
    return folder
