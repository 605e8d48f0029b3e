"""`samclip-bench roofline` on the packaged bundle: what it prints and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_packaged_bundle(bench: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "roofline.json"
    result = bench("roofline", "--backend", "onnxruntime", "--repeats", "1", "--json", path)
    assert result.exit_code == 0, result.stderr
    assert "FP32 products" in result.stdout
    assert "ESTIMATE" in result.stdout
    report = json.loads(path.read_bytes())
    graphs = {graph["graph"]: graph for graph in report["roofline"]["graphs"]}
    assert set(graphs) == {"encoder", "mask_decoder", "clip_head", "text_encoder"}
    assert graphs["mask_decoder"]["sizes"] == {"prompts": 1, "points": 2}
    assert graphs["text_encoder"]["sizes"] == {"texts": 20}
    assert 50e9 < sum(graphs["encoder"]["macs"].values()) < 60e9
    assert all(graph["reached"] > 0 for graph in graphs.values())


@pytest.mark.parametrize("what", ["a pipe", "nothing", "no image"])
def test_a_photo_that_cannot_be_read_is_refused_before_the_long_work(
    what: str, bench: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "photo.jpg"
    if what == "a pipe":
        os.mkfifo(photo)
    elif what == "no image":
        photo.write_text("no image")
    monkeypatch.setattr("samclip.benchmarks.cli.costs.measure_rates", pytest.fail)
    result = bench("roofline", "--photo", photo)
    assert result.exit_code == 2
    assert "photo.jpg" in result.stderr
