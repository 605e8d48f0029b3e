from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from samclip.engines.openvino import library

pytest.importorskip("openvino")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other files")
def test_without_proc_and_sys_it_would_hang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    present = tmp_path / "cpuinfo"
    present.touch()
    monkeypatch.setattr(library, "PROCESSOR_FILES", (os.devnull + "/none", str(present)))
    assert library.find_library().available
    present.unlink()
    probe = library.find_library()
    assert not probe.available
    assert "neither /proc nor /sys" in probe.detail


def test_its_telemetry_is_hidden_while_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is free again afterwards, and so is a module that was there."""
    monkeypatch.delitem(sys.modules, library.PACKAGE, raising=False)
    monkeypatch.delitem(sys.modules, library.TELEMETRY, raising=False)
    with library._without_telemetry(), pytest.raises(ImportError):
        __import__(library.TELEMETRY)
    assert library.TELEMETRY not in sys.modules
    monkeypatch.setitem(sys.modules, library.TELEMETRY, sys)
    with library._without_telemetry():
        assert sys.modules[library.TELEMETRY] is None
    assert sys.modules[library.TELEMETRY] is sys
